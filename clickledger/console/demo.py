"""The demo: one bad model, from its first wrong click to the corrected bill, told by the real system as it happens.

Nothing here is played: the acts drive the processes that `clickledger up` starts, and read what they wrote.
"""

from __future__ import annotations

import json
import time
from typing import Any

from clickledger.console import demo_story, output, provenance_text
from clickledger.console.cli_ingest import quantiles
from clickledger.console.demo_scene import Scene
from clickledger.console.demo_story import Story
from clickledger.errors import Unavailable
from clickledger.ledger import (
    audit,
    billing,
    comparison,
    database,
    deployments,
    log,
    outcomes,
    provenance,
    publication,
)
from clickledger.ledger.rights import Role
from clickledger.scoring import heartbeat, learn, rescore, stream
from clickledger.settings import Settings

ACTOR = "demo"
CLICKS_AFTER_ROLLBACK_MIN = 1_000
SELECT_INCIDENT = """
    SELECT i.incident_id, i.status, i.run_id, l.payload, l.recorded_at
    FROM incidents i JOIN log l ON l.position = i.incident_id WHERE i.deployment_epoch = %s"""
COUNT_AFTER = "SELECT count(*) FROM decisions WHERE model_version = %s AND log_position > %s"
SELECT_VERDICTS = """
    SELECT click_id, verdict::text FROM authoritative_decisions_as_of(%s)
    WHERE log_position >= %s AND log_position < %s"""
SELECT_EXAMPLE = """
    SELECT a.click_id FROM adjustments a JOIN comparisons c USING (adjustment_set)
    WHERE c.run_id = %s AND a.from_verdict = 'invalid' AND a.to_verdict = 'valid' ORDER BY a.line LIMIT 1"""
COUNT_CLICKS = """
    SELECT (SELECT count(*) FROM clicks), (SELECT count(*) FROM decisions), count(*),
           count(*) FILTER (WHERE verdict = 'undecided') FROM authoritative_decisions"""


def play(scene: Scene, settings: Settings) -> dict[str, Any]:
    """Play all acts on a fresh ledger whose processes are up; the facts, by the names of `--json`."""
    url = str(settings.database_url)
    with database.connect(url, application_name="clickledger demo", role=Role.REPLAYER) as conn:
        story = Story(scene, settings, conn)
        _history(story)
        _stable_model(story)
        _bad_model(story)
        _correct(story)
        _explain(story)
        _prove(story)
        return story.facts


def _history(story: Story) -> None:
    scene = story.scene
    with story.act(f"history: {scene.history_end:,} clicks, decided by the velocity rule of a new ledger"):
        story.send(scene.history_end)
        known_ms = scene.known_ms or scene.clicks[scene.history_end - 1].event_time_ms
        known = [o for o in scene.outcomes if o.occurred_at_ms <= known_ms and _is_history(story, o.click_id)]
        with database.connect(str(story.settings.database_url), role=Role.INGESTER) as conn:
            appended = outcomes.append(conn, known, ACTOR, "what history led to")
        output.say(f"    {appended.new:,} purchases of them are known")
        story.history_position = log.head(story.conn).position


def _is_history(story: Story, click_id: bytes) -> bool:
    boundary_ms = story.scene.clicks[story.scene.history_end - 1].event_time_ms
    return int.from_bytes(click_id[:6]) <= boundary_ms


def _stable_model(story: Story) -> None:
    scene = story.scene
    with story.act("model A: trained on the history, calibrated, deployed"):
        story.stable = learn.learn(
            story.conn,
            actor=ACTOR,
            reason="trained on all labels",
            up_to_position=story.history_position,
            **scene.learning,
        )
        deployments.promote(
            story.conn, story.stable.model_version, story.stable.calibration_version, ACTOR, "the first trained model"
        )
        output.say(f"    {_metrics(story.stable)}")
    with story.act(f"stable traffic: {scene.stable_end - scene.history_end:,} clicks, decided live by model A"):
        story.send_paced(scene.stable_end)


def _bad_model(story: Story) -> None:
    scene = story.scene
    with story.act(f"model B: {scene.fault}; deployed, with A in shadow"):
        story.bad = learn.learn(
            story.conn,
            actor=ACTOR,
            reason=scene.fault,
            withheld=scene.withheld,
            up_to_position=story.history_position,
            **scene.learning,
        )
        epoch = deployments.promote(
            story.conn, story.bad.model_version, story.bad.calibration_version, ACTOR, "the daily model"
        )
        output.say(f"    {_metrics(story.bad)}")
    with story.act("live traffic under model B, until the detector notices"):
        deployed = deployments.current(story.conn)
        incident = _send_until_rolled_back(story, epoch)
        _tell_anomaly(story, incident, deployed)
    rest = len(scene.clicks) - story.sent
    with story.act(f"the rest of the day: {rest:,} clicks, decided by model A again"):
        story.send(len(scene.clicks))
        _tell_rollback(story)


def _send_until_rolled_back(story: Story, epoch: int) -> tuple[Any, ...]:
    """Send on, at a steady pace, until the rollback that the detector causes; the incident."""
    deadline = time.monotonic() + demo_story.WAIT_SECONDS_MAX
    keep = min(CLICKS_AFTER_ROLLBACK_MIN, (len(story.scene.clicks) - story.sent) // 10)
    while time.monotonic() < deadline:
        if deployments.current(story.conn).epoch != epoch:
            found = story.conn.execute(SELECT_INCIDENT, (epoch,)).fetchone()
            if found is not None:
                return tuple(found)
        if story.sent < len(story.scene.clicks) - keep:
            story.send_paced(min(story.sent + demo_story.PACE_CLICKS, len(story.scene.clicks) - keep))
        else:
            time.sleep(demo_story.POLL_SECONDS)
    raise Unavailable(
        f"the detector did not roll back within {demo_story.WAIT_SECONDS_MAX:g} s and {story.sent:,} clicks; "
        f"logs are in {story.settings.home}/log"
    )


def _tell_anomaly(story: Story, incident: tuple[Any, ...], deployed: deployments.Deployment) -> None:
    incident_id, _, _, payload_text, raised_at = incident
    payload = json.loads(payload_text)
    seconds = (raised_at - deployed.recorded_at).total_seconds()
    story.facts["incident_id"] = incident_id
    story.facts["anomaly"] = {
        "raised_after_seconds": round(seconds, 3),
        "signals": payload["signals"],
        "slice": payload["slice"],
    }
    output.say(f"    anomaly {incident_id} raised {seconds:.1f} s after the deployment, worst slice {payload['slice']}")
    for signal in payload["signals"]:
        output.say(f"      {signal}")


def _tell_rollback(story: Story) -> None:
    current = deployments.current(story.conn)
    bad = _of(story.bad)
    switched = _switched_seconds(story, current)
    after = story.conn.execute(COUNT_AFTER, (bad.model_version, current.position)).fetchone()
    appended = int(after[0]) if after else -1
    story.facts["rollback"] = {
        "position": current.position,
        "workers_switched_seconds": switched,
        "appended_by_rolled_back_model_after": appended,
    }
    output.say(f"    rolled back at position {current.position}, workers followed after {switched:.2f} s")
    output.say(f"    decisions of model B appended after that: {appended}")


def _switched_seconds(story: Story, current: deployments.Deployment) -> float:
    """From the rollback's commit until the last worker decided under the new epoch."""
    with stream.connect(str(story.settings.redis_url)) as client:
        demo_story.wait("all workers follow the rollback", lambda: _all_under(client, current.epoch))
        switched_at_ms = max(state.switched_at_ms for state in heartbeat.live(client))
    return max(0.0, round(switched_at_ms / 1000 - current.recorded_at.timestamp(), 3))


def _all_under(client: Any, epoch: int) -> bool:
    live = heartbeat.live(client)
    return bool(live) and all(state.deployment_epoch == epoch for state in live)


def _correct(story: Story) -> None:
    rollback = story.facts["rollback"]["position"]
    with story.act("replay: model A decides again what B had decided, in leased chunks on Celery workers"):
        run_id = demo_story.wait("the replay is compared", lambda: _compared_run(story))
        compared = comparison.latest(story.conn, run_id)
        planned, staged = log.entry(story.conn, run_id), log.entry(story.conn, compared.comparison_id)
        seconds = (staged.recorded_at - planned.recorded_at).total_seconds()
        _tell_comparison(compared, seconds)
    head_before = log.head(story.conn).position
    billed_before = _billed(story)
    with story.act("publish, revert, publish again: each one short commit"):
        first = publication.publish(story.conn, run_id, compared.digest, ACTOR, "correct what model B decided")
        undone = publication.revert(story.conn, run_id, ACTOR, "show that it can be undone")
        reverted_to = _billed(story)
        again = comparison.compare(story.conn, run_id, ACTOR)
        final = publication.publish(story.conn, run_id, again.digest, ACTOR, "and published again")
        publish_ms = max(first.seconds, final.seconds) * 1000
        output.say(f"    published in {publish_ms:.1f} ms, reverted in {undone.seconds * 1000:.1f} ms")
    posted, written_off = billing.feed_total(story.conn)
    before_feed, _ = billing.feed_total(story.conn, head_before)
    billed_after = _billed(story)
    story.facts["replay"] = {
        "run_id": run_id,
        "clicks": compared.summary["clicks"],
        "flips": compared.summary["flips"],
        "carried": compared.summary["carried"],
        "seconds": round(seconds, 3),
        "publish_ms": round(publish_ms, 3),
        "revert_ms": round(undone.seconds * 1000, 3),
    }
    story.facts["money_micros"] = {
        "billed_before": billed_before,
        "adjustments": posted - before_feed,
        "billed_after": billed_after,
    }
    conserved = billed_before + posted - before_feed == billed_after and posted + written_off == billed_after
    story.facts["conservation_ok"] = conserved and reverted_to == billed_before
    _tell_truth(story, head_before, run_id, rollback)


def _compared_run(story: Story) -> int | None:
    query = "SELECT run_id FROM incidents WHERE incident_id = %s AND status = 'compared'"
    row = story.conn.execute(query, (story.facts["incident_id"],)).fetchone()
    return int(row[0]) if row else None


def _tell_comparison(compared: comparison.Comparison, seconds: float) -> None:
    summary = compared.summary
    output.say(
        f"    run {compared.run_id}: {summary['clicks']:,} clicks in {seconds:.1f} s, {summary['flips']:,} flips"
    )
    rows = [
        (
            name,
            f"{sums['clicks']:,}",
            f"{sums['to_valid']:,}",
            f"{sums['to_invalid']:,}",
            _money(sums["adjustments_micros"]),
        )
        for name, sums in sorted(compared.by("slice").items())
    ]
    output.rows("    what publishing will change", ("slice", "clicks", "to valid", "to invalid", "adjustment"), rows)


def _tell_truth(story: Story, before: int, run_id: int, rollback: int) -> None:
    """Simulated traffic only: people withheld and robots billed in the replayed range, before and after."""
    if (robots := story.scene.robots) is None:
        return
    lo, hi = comparison.latest(story.conn, run_id).summary["positions"]
    now = log.head(story.conn).position
    counted = {
        name: _wrong(story, robots, at, lo, min(hi, rollback)) for name, at in (("before", before), ("after", now))
    }
    story.facts["truth"] = {
        "wrongly_withheld_before": counted["before"][0],
        "wrongly_withheld_after": counted["after"][0],
        "robots_billed_before": counted["before"][1],
        "robots_billed_after": counted["after"][1],
    }


def _wrong(story: Story, robots: set[bytes], as_of: int, lo: int, hi: int) -> tuple[int, int]:
    withheld = billed = 0
    for click_id, verdict in story.conn.execute(SELECT_VERDICTS, (as_of, lo, hi)):
        robot = click_id.bytes in robots
        withheld += verdict == "invalid" and not robot
        billed += verdict == "valid" and robot
    return withheld, billed


def _explain(story: Story) -> None:
    """One click that the correction changed: the whole of its story, as `clickledger why` tells it."""
    example = story.conn.execute(SELECT_EXAMPLE, (story.facts["replay"]["run_id"],)).fetchone()
    story.facts["provenance_click_id"] = str(example[0]) if example else None
    if example is None:
        return
    with story.act("why: one click that the bad model had withheld"):
        told = provenance.why(story.conn, example[0])
        again = provenance_text.rescored(story.conn, told)
        warm = provenance_text.warmth_of(story.conn, told["click"])
        provenance_text.show(told, provenance_text.features_of(told["click"]), again, warm)


def _prove(story: Story) -> None:
    with story.act("proof: chain, digests, one decision per click, money, re-scored decisions"):
        report = audit.verify(story.conn)
        rescored = rescore.sample(story.conn)
        for name, lines in report.failures.items():
            output.say(f"    {'ok    ' if not lines else 'FAILED'} {name}{''.join('; ' + line for line in lines[:1])}")
        output.say(f"    {rescored.exact:,} of {rescored.rescored:,} decisions re-scored to the same bits")
    clicks, live, authoritative, undecided = story.conn.execute(COUNT_CLICKS).fetchone() or (0, 0, -1, 0)
    one = not report.failures["one authoritative decision per click"] and clicks == authoritative
    chain = not (report.failures["chain"] or report.failures["digests"] or report.failures["replay runs"])
    story.facts |= {
        "clicks": clicks,
        "live_decisions": live,
        "authoritative_decisions": authoritative,
        "undecided": undecided,
        "duplicates": story.duplicates,
        "rejected": story.scene.rejected,
        "decision_latency_ms": quantiles(story.latencies_ms),
        "exactly_one_ok": one,
        "chain_ok": chain,
        "verified_ok": report.ok,
        "rescored": rescored.rescored,
        "rescored_exact": rescored.exact,
        "seconds": round(time.monotonic() - story.started, 1),
    }


def _billed(story: Story) -> int:
    return sum(total.billed_micros for total in billing.totals(story.conn))


def _of(learned: learn.Learned | None) -> learn.Learned:
    if learned is None:
        raise Unavailable("the demo lost a model it had trained")
    return learned


def _metrics(learned: learn.Learned) -> str:
    shown = {name: round(value, 3) for name, value in learned.metrics.items() if isinstance(value, float)}
    return f"model {learned.model_version}, {learned.rows:,} clicks, {learned.purchases:,} purchases, {shown}"


def _money(micros: int) -> str:
    return f"{micros / 1e6:+,.2f}"
