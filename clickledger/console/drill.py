"""Drills: a fault put into a ledger of its own, what the system does about it, and an account of it.

Nothing here is played: the acts drive the processes that `clickledger up` starts, and read what they wrote. The drill
publishes what the replay gives at once, as a responder would who trusts it; everything before that happens by itself.

`bad-model`       trained on a history whose human labels are missing for six hours of each day
`threshold-typo`  a sound model, deployed with a threshold whose sign somebody got wrong
`missing-labels`  a set that guards refuse for its missing labels, learnt from all the same (`drill_labels`)

Those in which no model is at fault are in `drill_late` and `drill_counters`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from clickledger.console import demo_story, drill_account, drill_labels, output
from clickledger.console.demo_story import Story
from clickledger.console.drill_scene import Cut
from clickledger.errors import Unavailable
from clickledger.ledger import comparison, database, deployments, log, outcomes
from clickledger.ledger.rights import Role
from clickledger.recovery import incidents, publishing, rollback
from clickledger.recovery.incidents import Status
from clickledger.scoring import learn
from clickledger.settings import Settings

ACTOR = "drill"
GUARDED = "missing-labels"
NOTICE_SECONDS_MAX = 300.0
SILENT_SECONDS_MAX = 45.0  # after the last click: a look or two
TYPO_THRESHOLD = -3.0  # instead of +3: a logit that half of all people reach

Versions = tuple[int, int]


def play(fault: str, cut: Cut, settings: Settings, rate: float) -> dict[str, Any]:
    """One drill on a fresh ledger whose processes are up; the facts, by the names of `--json`."""
    with database.connect(str(settings.database_url), application_name="clickledger drill", role=Role.REPLAYER) as conn:
        story = Story(cut.scene, settings, conn, pace_clicks_per_s=rate)
        sound = stable(story, **(drill_labels.as_daily(cut.scene) if fault == GUARDED else {}))
        _let_slip(story, FAULTS[fault](story), cut.watched_from)
        _wait_and_publish(story, sound)
        return {"drill": fault, "rate": rate, **story.facts}


def stable(story: Story, **learning: Any) -> Versions:
    """History under the rule of a new ledger, then a model trained on it, and some traffic that it decides.

    `learning` goes over what the scene says of learning.
    """
    scene, conn = story.scene, story.conn
    with story.act(f"history: {scene.history_end:,} clicks and what they led to"):
        story.send(scene.history_end)
        boundary_ms = scene.clicks[scene.history_end - 1].event_time_ms
        known = [o for o in scene.outcomes if max(o.occurred_at_ms, int.from_bytes(o.click_id[:6])) <= boundary_ms]
        with database.connect(str(story.settings.database_url), role=Role.INGESTER) as ingester:
            outcomes.append(ingester, known, ACTOR, "what history led to")
        story.history_position = log.head(conn).position
    with story.act("the stable model: trained, deployed"):
        learned = learn.learn(
            conn,
            actor=ACTOR,
            reason="all labels",
            up_to_position=story.history_position,
            **{**scene.learning, **learning},
        )
        versions = learned.model_version, learned.calibration_version
        deployments.promote(conn, *versions, ACTOR, "stable")
    with story.act(f"{scene.stable_end - scene.history_end:,} clicks decided by it"):
        story.send(scene.stable_end)
    return versions


def _bad_model(story: Story) -> Versions:
    scene = story.scene
    with story.act(f"the fault: a model {scene.fault}"):
        learned = learn.learn(
            story.conn, actor=ACTOR, reason=scene.fault, withheld=scene.withheld,
            up_to_position=story.history_position, **scene.learning,
        )  # fmt: skip
    return learned.model_version, learned.calibration_version


def _threshold_typo(story: Story) -> Versions:
    with story.act(f"the fault: a sound model whose threshold was set to {TYPO_THRESHOLD:g}"):
        learned = learn.learn(
            story.conn, actor=ACTOR, reason="the daily model", kind="logistic_regression",
            up_to_position=story.history_position, **story.scene.learning,
        )  # fmt: skip
        wrong = deployments.set_calibration(
            story.conn, learned.model_version, {"*": TYPO_THRESHOLD}, {}, ACTOR, "by hand"
        )
    return learned.model_version, wrong


FAULTS: dict[str, Callable[[Story], Versions]] = {
    "bad-model": _bad_model,
    "threshold-typo": _threshold_typo,
    GUARDED: partial(drill_labels.refuse_and_override, actor=ACTOR),
}


def _let_slip(story: Story, bad: Versions, watched_from: int) -> None:
    """Deploy the bad model, let it decide, unwatched if there is that much, then beside the stable one till noticed."""
    scene, conn = story.scene, story.conn
    unwatched = watched_from - scene.stable_end
    if unwatched > 0:
        with story.act(f"it decides {unwatched:,} clicks with nothing in shadow: nobody can notice"):
            route = _route(bad)
            before = deployments.current(conn).routing["routes"][0]
            deployments.deploy(conn, {"routes": [route], "shadow": None}, ACTOR, "deployed without a shadow")
            story.send(watched_from)
            shadow = {"model": before["model"], "calibration": before["calibration"]}
            deployments.deploy(
                conn, {"routes": [route], "shadow": shadow}, ACTOR, "now with the stable model beside it"
            )
    else:
        deployments.promote(conn, *bad, ACTOR, "deployed")
    deployed = deployments.current(conn)
    with story.act("live traffic under it, until somebody notices"):
        position = _send_until_rolled_back(story, deployed.epoch)
    rolled_back = log.entry(conn, position)
    incident = incidents.get(conn, int(rolled_back.payload["incident_id"]))
    raised = log.entry(conn, incident.incident_id)
    noticed = (raised.recorded_at - deployed.recorded_at).total_seconds()
    story.facts |= {
        "incident_id": incident.incident_id,
        "signals": raised.payload["signals"],
        "unwatched_clicks": max(0, unwatched),
        "noticed_after_seconds": round(noticed, 3),
        "rolled_back_after_seconds": round((rolled_back.recorded_at - raised.recorded_at).total_seconds(), 3),
    }
    output.say(f"    noticed {noticed:.1f} s after it could be, by {', '.join(raised.payload['signals'])}")


def _route(versions: Versions) -> dict[str, Any]:
    return {"slice": "*", "share": 1.0, "model": versions[0], "calibration": versions[1]}


def _send_until_rolled_back(story: Story, epoch: int) -> int:
    """Send at the rate of the drill until the rollback that the detector causes; its position."""
    deadline = time.monotonic() + NOTICE_SECONDS_MAX
    while time.monotonic() < deadline:
        if rollback.revoked(story.conn, epoch):
            return deployments.current(story.conn).position
        if story.sent < len(story.scene.clicks):
            story.send_paced(min(story.sent + demo_story.PACE_CLICKS, len(story.scene.clicks)))
        else:
            deadline = min(deadline, time.monotonic() + SILENT_SECONDS_MAX)
            time.sleep(demo_story.POLL_SECONDS)
    raise Unavailable(
        f"nobody noticed within {story.sent:,} clicks: expected more of them, --rate or --history; "
        f"logs are in {story.settings.home}/log"
    )


def _wait_and_publish(story: Story, sound: Versions) -> None:
    conn, number = story.conn, int(story.facts["incident_id"])
    raised_at = log.entry(conn, number).recorded_at
    [rolled_back] = [e for e in incidents.timeline(conn, number) if e.kind == "rollback_declared"]
    with story.act("the replay: the stable model decides all of it again"):
        incident = _await_compared(story, number)
        run_id = int(incident.run_id or 0)
        compared = comparison.latest(conn, run_id)
        before = log.head(conn).position
        published = publishing.publish(conn, run_id, compared.digest, ACTOR, "the drill's correction")
        done_at = log.entry(conn, published.position).recorded_at
    lo, hi = compared.summary["positions"]
    with story.act("the account"):
        robots = story.scene.robots or set()
        sides = {"before": drill_account.treated(conn, before, lo, hi, robots)}
        sides["after"] = drill_account.treated(conn, log.head(conn).position, lo, hi, robots)
        revoked = list(rolled_back.payload["revoked_epochs"])
        story.facts |= {
            "run_id": run_id,
            "published_after_seconds": round((done_at - raised_at).total_seconds(), 3),
            "publish_ms": round(published.seconds * 1000, 3),
            "clicks": compared.summary["clicks"],
            "flips": compared.summary["flips"],
            "appended_by_revoked_after": drill_account.appended_after(conn, revoked, rolled_back.position),
            "doubled_billing": drill_account.doubled(conn),
            "differs_from_stable": drill_account.differs_from(conn, *sound, lo, hi),
            **{f"{name}_{side}": value for side, found in sides.items() for name, value in found.items()},
            "seconds": round(time.monotonic() - story.started, 1),
        }


def _await_compared(story: Story, number: int) -> incidents.Incident:
    """The incident once it is compared. Raises Unavailable when its replay stops short."""
    while True:
        incident = incidents.get(story.conn, number)
        if incident.status is Status.COMPARED:
            return incident
        if incident.status not in {Status.ROLLED_BACK, Status.REPLAYING}:
            raise Unavailable(f"incident {number}: expected a replay that is compared, got {incident.status.value}")
        if time.monotonic() - story.started > 3600:
            raise Unavailable(
                f"incident {number} is still {incident.status.value}; logs are in {story.settings.home}/log"
            )
        time.sleep(demo_story.POLL_SECONDS)
