"""The drill `counter-loss`: Valkey loses records while clicks are counted; what was decided on the rest is corrected.

Nothing notices such a loss as it happens: numbers go on, and every snapshot looks like one. What finds it is the audit
of snapshots against the log; what mends the counters is dropping them, since the worker makes them anew from the log.
The clicks in between are decided again on features counted again (mode `recompute`).

The account does not ask the recount whether it was right: the clicks are counted once more, in the order of the log, in
a set of counters of their own that loses nothing, by the function that counts live clicks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import redis

from clickledger.console import demo_story, drill, drill_account, output
from clickledger.console.demo_story import Story
from clickledger.console.drill_scene import Cut
from clickledger.errors import Refused, Unavailable
from clickledger.ledger import comparison, database, log, runs
from clickledger.ledger.rights import Role
from clickledger.recovery import plans, progress, publishing, replay
from clickledger.scoring import counted_clicks, counter_epochs, counters, feature_spec, recount, stream
from clickledger.settings import Settings

MARGIN = timedelta(seconds=5)  # before the fault, since a drill knows when it began
RECORDS = ("u:*", "i:*")  # of users and of IPs, after the prefix of the set that counts
SOUND_PREFIX = "cl:drill:"
STOPPED = {"stuck", "paused", "abandoned"}
REPLAY_SECONDS_MAX = 3600.0


def play(cut: Cut, settings: Settings, rate: float) -> dict[str, Any]:
    """The drill on a fresh ledger whose processes are up; the facts, by the names of `--json`."""
    with (
        database.connect(str(settings.database_url), application_name="clickledger drill", role=Role.REPLAYER) as conn,
        stream.connect(str(settings.redis_url)) as client,
    ):
        story = Story(cut.scene, settings, conn, pace_clicks_per_s=rate)
        drill.stable(story)
        since, until = _lose_records(story, client)
        _notice_and_mend(story, client, since)
        before = log.head(conn).position
        _correct(story, since, until)
        _account(story, client, before)
        return {"drill": "counter-loss", "rate": rate, **story.facts}


def _lose_records(story: Story, client: redis.Redis) -> tuple[datetime, datetime]:
    """Every other record of users and IPs is lost, again and again; since when and until when, by the log's times."""
    begin, third = story.sent, (len(story.scene.clicks) - story.sent) // 3
    prefix = counter_epochs.live_prefix(client)
    since, lost = log.head(story.conn).recorded_at, 0
    with story.act(f"the fault: every other record of users and IPs is lost, while {third:,} clicks are counted"):
        while story.sent < begin + third:
            keys = sorted(key for pattern in RECORDS for key in client.scan_iter(prefix + pattern, count=1000))
            lost += int(client.delete(*keys[::2])) if keys else 0
            story.send_paced(min(story.sent + demo_story.PACE_CLICKS, begin + third))
        until = log.head(story.conn).recorded_at
    with story.act(f"{third:,} clicks counted on what is left, as nobody has noticed"):
        story.send_paced(begin + 2 * third)
    story.facts["lost_records"] = lost
    return since, until


def _notice_and_mend(story: Story, client: redis.Redis, since: datetime) -> None:
    """The audit finds wrong snapshots; the counters are dropped, and made anew from the log with the next click."""
    with story.act("audit verify --snapshots: do the recorded snapshots follow from the log?"):
        found = recount.verify(story.conn)
        wrong = found.recounted - found.exact
        if not wrong:
            raise Refused(
                f"all {found.exact:,} snapshots follow from the log: nothing to correct, expected more --clicks"
            )
        output.say(f"    {wrong:,} of {found.recounted:,} do not")
    noticed_at = datetime.now(UTC)
    story.facts |= {
        "wrong_snapshots": wrong,
        "noticed_at": noticed_at,
        "noticed_after_seconds": round((noticed_at - since).total_seconds(), 3),
    }
    rest = len(story.scene.clicks) - story.sent
    with story.act(f"the counters are dropped, and made anew from the log; {rest:,} clicks decided on them"):
        client.delete(counter_epochs.live_prefix(client) + "state")
        story.send(len(story.scene.clicks))


def _correct(story: Story, since: datetime, until: datetime) -> None:
    """Plan, replay, publish; the figures of the run."""
    conn, noticed_at = story.conn, story.facts.pop("noticed_at")
    with story.act("replay plan --counters SINCE UNTIL: features are counted again, and decided by each click's model"):
        plan = plans.for_counters(conn, since, until, MARGIN, plans.What((runs.OWN, runs.OWN)))
        output.say(f"    {plan.why}")
        run = replay.start(conn, plan, drill.ACTOR, "counters lost records")
        compared = _await_compared(story, run.run_id)
    robots, before = story.scene.robots or set(), log.head(conn).position
    published = publishing.publish(conn, run.run_id, compared.digest, drill.ACTOR, "the drill's correction")
    done = log.entry(conn, published.position)
    sides = {
        side: drill_account.treated(conn, position, run.lo, run.hi, robots)
        for side, position in (("before", before), ("after", done.position))
    }
    story.facts |= {
        "run_id": run.run_id,
        "published_after_seconds": round((done.recorded_at - noticed_at).total_seconds(), 3),
        "publish_ms": round(published.seconds * 1000, 3),
        "clicks": compared.summary["clicks"],
        "flips": compared.summary["flips"],
        **{f"{name}_{side}": value for side, found in sides.items() for name, value in found.items()},
    }


def _await_compared(story: Story, run_id: int) -> comparison.Comparison:
    """What the workers make of a run. Raises Unavailable when they stop short."""
    deadline = time.monotonic() + REPLAY_SECONDS_MAX
    while (stage := progress.of_run(story.conn, run_id).stage) != "compared":
        if stage in STOPPED or time.monotonic() > deadline:
            raise Unavailable(f"run {run_id}: expected it compared, got {stage}; logs are in {story.settings.home}/log")
        time.sleep(demo_story.POLL_SECONDS)
    return comparison.latest(story.conn, run_id)


def _account(story: Story, client: redis.Redis, before: int) -> None:
    """What is in force beside what sound counters give, and what was at the position before the correction."""
    conn = story.conn
    with story.act("the account: every click of the ledger beside counters that lost nothing"):
        sound = dict(_counted_soundly(conn, client))
        differed, _ = drill_account.differs_from_sound(conn, sound, before)
        differing, named = drill_account.differs_from_sound(conn, sound, log.head(conn).position)
        story.facts |= {
            "differed_from_sound_before": differed,
            "differs_from_sound": differing,
            "named": named,
            "doubled_billing": drill_account.doubled(conn),
            "seconds": round(time.monotonic() - story.started, 1),
        }
        told = ", ".join(f"{count:,} {reason}" for reason, count in sorted(named.items())) or "none"
        output.say(f"    clicks that keep their decision for a named reason: {told}")


def _counted_soundly(conn: database.Connection, client: redis.Redis) -> Iterator[tuple[bytes, bytes]]:
    """Click id and snapshot of every counted click, had no record been lost."""
    counters.open_epoch(client, 1, prefix=SOUND_PREFIX)
    counter = counters.FeatureCounter(client, 1, SOUND_PREFIX)
    for rows in counted_clicks.in_seq_order(conn):
        counted = counter.count([row.click for row in rows])
        yield from zip((r.click.click_id for r in rows), feature_spec.pack_snapshots(counted.features), strict=True)
