"""The drill `late-purchases`: purchases become known after their clicks were withheld, and the clicks are corrected.

No model is at fault, so nothing is rolled back: a task looks for such clicks and proposes sparse corrections by itself;
somebody, here the drill, publishes them.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

from clickledger.console import demo_story, drill, drill_account, output
from clickledger.console.demo_story import Story
from clickledger.console.drill_scene import Cut
from clickledger.errors import Refused
from clickledger.ledger import comparison, database, log, outcomes
from clickledger.ledger.rights import Role
from clickledger.recovery import due_corrections, publishing
from clickledger.settings import Settings

STRICT_FPR = 0.3  # of buyers' clicks withheld, so that there is something to correct
SELECT_WITHHELD = """
    SELECT d.click_id, d.cost_micros FROM decisions d
    WHERE d.click_id = ANY (%s) AND (SELECT x.verdict FROM decision_of(d.click_id) x) = 'invalid'"""


def play(cut: Cut, settings: Settings, rate: float) -> dict[str, Any]:
    """The drill on a fresh ledger whose processes are up; the facts, by the names of `--json`."""
    with database.connect(str(settings.database_url), application_name="clickledger drill", role=Role.REPLAYER) as conn:
        story = Story(cut.scene, settings, conn, pace_clicks_per_s=rate)
        drill.stable(story, fpr_max=STRICT_FPR)
        rest = len(cut.scene.clicks) - story.sent
        with story.act(f"{rest:,} clicks decided by it, before anybody knows what they lead to"):
            story.send(len(cut.scene.clicks))
        bought = _record_all(story)
        if not (before := _withheld(conn, bought)):
            raise Refused(
                f"none of {len(bought):,} purchases was withheld: nothing to correct, expected more --history"
            )
        with story.act(f"{len(before):,} of them were withheld: until corrections are proposed, and published"):
            _publish_all(story, bought)
        after = _withheld(conn, bought)
        story.facts |= {
            "clicks": len(before),
            "doubled_billing": drill_account.doubled(conn),
            "still_withheld": len(after),
            "wrongly_withheld_before": len(before),
            "wrongly_withheld_micros_before": sum(before.values()),
            "wrongly_withheld_after": len(after),
            "wrongly_withheld_micros_after": sum(after.values()),
            "seconds": round(time.monotonic() - story.started, 1),
        }
        return {"drill": "late-purchases", "rate": rate, **story.facts}


def _record_all(story: Story) -> list[bytes]:
    """Record every purchase there is, those known before are repeats; the clicks that bought."""
    with story.act(f"{len(story.scene.outcomes):,} purchases are known now"):
        with database.connect(str(story.settings.database_url), role=Role.INGESTER) as conn:
            outcomes.append(conn, story.scene.outcomes, drill.ACTOR, "the feed caught up")
        story.facts["known_position"] = log.head(story.conn).position
    return sorted({outcome.click_id for outcome in story.scene.outcomes})


def _withheld(conn: database.Connection, click_ids: list[bytes]) -> dict[bytes, int]:
    """Those that are invalid in force, with what they cost."""
    rows = conn.execute(SELECT_WITHHELD, ([uuid.UUID(bytes=click_id) for click_id in click_ids],))
    return {click_id.bytes: cost_micros for click_id, cost_micros in rows}


def _publish_all(story: Story, bought: list[bytes]) -> None:
    """Publish what is proposed until no purchase is withheld any more, or nothing more is proposed for a while."""
    conn, known_at = story.conn, log.entry(story.conn, int(story.facts["known_position"])).recorded_at
    runs, flips = 0, 0
    deadline = time.monotonic() + drill.SILENT_SECONDS_MAX
    while time.monotonic() < deadline and _withheld(conn, bought):
        for proposed in due_corrections.listed(conn):
            noticed = (proposed.proposed_at - known_at).total_seconds()
            if noticed > 0:  # what history led to was proposed before
                story.facts.setdefault("noticed_after_seconds", round(noticed, 3))
            compared = publishing.compare(conn, proposed.run_id, drill.ACTOR)  # each publication makes others stale
            done = publishing.publish(conn, proposed.run_id, compared.digest, drill.ACTOR, "they bought")
            published_at = log.entry(conn, done.position).recorded_at
            story.facts["published_after_seconds"] = round((published_at - known_at).total_seconds(), 3)
            runs, flips = runs + 1, flips + int(comparison.latest(conn, proposed.run_id).summary["flips"])
            deadline = time.monotonic() + drill.SILENT_SECONDS_MAX
        time.sleep(demo_story.POLL_SECONDS)
    story.facts |= {"runs": runs, "flips": flips}
    output.say(f"    {runs} corrections of {flips:,} clicks published")
