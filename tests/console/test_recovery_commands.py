"""`incident`, `rollback` and `replay` on the command line: what they print, what they end with, what comes next."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from commands import Command
from decided_traffic import Traffic, bad_deployment

from clickledger.console import recovery_words, replay_watch
from clickledger.ledger import database, log
from clickledger.ledger.caps import AUTOMATIC, Caps
from clickledger.recovery import anomaly, due_corrections, incidents, steps, working
from clickledger.recovery.ticks import Rules
from clickledger.recovery.working import Worker


def raised(conn: database.Connection) -> tuple[Traffic, int]:
    traffic, _, _ = bad_deployment(conn)
    traffic.purchases(range(100))
    incident = anomaly.detect(conn, Rules(1.0, 0.0), "tests")
    assert incident is not None
    return traffic, incident.incident_id


def work(conn: database.Connection, run_id: int) -> None:
    """What the workers would do."""
    working.work(conn, run_id, Worker("tests", 60.0), 60.0)
    steps.finish(conn, run_id, "tests")


def started(command: Command, which: list[object]) -> int:
    """The run of a plan with those options."""
    digest = command("replay", "plan", *which).fields["digest"]
    return int(command("replay", "start", digest, "--reason", "x").fields["run_id"])


def test_what_a_bad_model_decided_again_is_named_beside_what_it_decided_live(
    conn: database.Connection, command: Command
) -> None:
    _, incident = raised(conn)
    bad = incidents.get(conn, incident).model_version
    [(first,)] = conn.execute("SELECT min(position) FROM log WHERE kind = 'clicks_decided'").fetchall()
    run_id = started(command, ["--positions", first, first + 2, "--model", bad])  # before anybody knew better
    work(conn, run_id)
    digest = command("replay", "compare", run_id).fields["digest"]
    assert command("replay", "publish", run_id, "--digest", digest, "--reason", "x").code == 0
    command("rollback", "--incident", incident, "--reason", "people withheld")
    plan = command("replay", "plan", "--incident", incident)
    assert plan.fields["also_decided"] == [{"run_id": run_id, "positions": [first, first + 2]}]
    assert f"run {run_id}, in force, was decided by that model too" in plan.said
    assert f"clickledger replay plan --positions {first} {first + 2} --model MODEL" in plan.said


def test_from_an_incident_to_a_publication_and_back_by_hand(conn: database.Connection, command: Command) -> None:
    _, incident = raised(conn)
    shown = command("incident", "show", incident)
    assert shown.fields["status"] == "raised"
    assert "known" in shown.fields["evidence"]["signals"]
    assert f"next: clickledger rollback --incident {incident} --reason" in shown.said

    rolled_back = command("rollback", "--incident", incident, "--reason", "people withheld")
    assert rolled_back.code == 0
    assert f"next: clickledger replay plan --incident {incident}" in rolled_back.said

    plan = command("replay", "plan", "--incident", incident)
    assert plan.fields["clicks"] == 2_000
    assert plan.fields["estimate"]["flips"] > 0
    digest = plan.fields["digest"]
    assert f"next: clickledger replay start {digest} --reason" in plan.said
    assert conn.execute("SELECT count(*) FROM replay_runs").fetchone() == (0,)

    begun = command("replay", "start", digest, "--reason", "corrected")
    run_id = begun.fields["run_id"]
    assert f"next: clickledger replay watch {run_id}" in begun.said
    work(conn, run_id)

    watched = command("replay", "watch", run_id)
    assert (watched.code, watched.fields["stage"]) == (0, "compared")
    compared = watched.fields["comparison"]
    assert compared["flips"] == plan.fields["estimate"]["flips"]
    assert f"next: clickledger replay publish {run_id} --digest {compared['digest']} --reason" in watched.said

    wrong = command("replay", "publish", run_id, "--digest", "0" * 64, "--reason", "x")
    assert (wrong.code, wrong.said.count("\n")) == (4, 1)
    published = command("replay", "publish", run_id, "--digest", compared["digest"], "--reason", "checked")
    assert published.code == 0
    assert f"next: clickledger replay revert {run_id}" in published.said
    assert command("incident", "list").fields["incidents"][0]["status"] == "published"
    assert command("replay", "publish", run_id, "--digest", compared["digest"], "--reason", "twice").code == 3

    reverted = command("replay", "revert", run_id, "--reason", "to be sure")
    assert reverted.code == 0
    stale = command("replay", "publish", run_id, "--digest", compared["digest"], "--reason", "again")
    assert stale.code == 4
    again = command("replay", "compare", run_id)
    assert command("replay", "publish", run_id, "--digest", again.fields["digest"], "--reason", "again").code == 0
    assert command("replay", "list").fields["runs"][0]["stage"] == "published"


def test_whoever_does_something_is_named_in_the_log(conn: database.Connection, command: Command) -> None:
    _, incident = raised(conn)
    command("rollback", "--incident", incident, "--reason", "people withheld")
    [entry] = log.read(conn, kinds=["rollback_declared"])
    assert entry.actor.startswith("cli")
    assert entry.reason == "people withheld"


def test_a_model_can_be_rolled_back_without_an_incident(conn: database.Connection, command: Command) -> None:
    _, _, bad = bad_deployment(conn)
    done = command("rollback", "--model", bad[0], "--reason", "seen by eye")
    assert (done.code, done.fields["revoked_epochs"]) == (0, [2])
    assert command("rollback", "--model", bad[0], "--reason", "again").code == 3


def test_positions_are_replayed_through_a_named_model_and_scope(conn: database.Connection, command: Command) -> None:
    _, stable, _ = bad_deployment(conn)
    head = log.head(conn).position
    which = ["--positions", 1, head + 1, "--model", stable[0], "--calibration", stable[1], "--slice", "web/out"]
    plan = command("replay", "plan", *which)
    assert plan.fields["scope"] == {"slices": ["web/out"]}
    begun = command("replay", "start", plan.fields["digest"], "--reason", "a dispute")
    work(conn, begun.fields["run_id"])
    watched = command("replay", "watch", begun.fields["run_id"])
    others = watched.fields["comparison"]["slice"]["app/in"]
    assert (others["carried"], others["to_valid"]) == (others["clicks"], 0)


@pytest.mark.parametrize(
    "words",
    [
        ("replay", "plan"),
        ("replay", "plan", "--positions", 1, 2),
        ("replay", "plan", "--positions", 1, 2, "--model", 77),
        ("replay", "plan", "--positions", 1, 2, "--incident", 1, "--model", 1),
        ("replay", "plan", "--incident", 1, "--backtest"),
        ("replay", "plan", "--positions", 1, 2, "--backtest"),
        ("replay", "plan", "--times", "yesterday", "today", "--model", 1),
        ("replay", "plan", "--deployment", 99, "--model", 1, "--calibration", 1),
        ("replay", "pause", 999, "--reason", "x"),
        ("replay", "plan", "--incident", 999),
        ("replay", "watch", 999),
        ("replay", "publish", 999, "--digest", "00", "--reason", "x"),
        ("rollback", "--reason", "neither"),
        ("incident", "show", 999),
    ],
)
def test_what_cannot_be_used_ends_with_2(command: Command, words: tuple[object, ...]) -> None:
    answer = command(*words)
    assert answer.code == 2
    assert answer.said.startswith("error: ")


def test_a_plan_that_changed_is_not_started(conn: database.Connection, command: Command) -> None:
    traffic, incident = raised(conn)
    digest = command("replay", "plan", "--incident", incident).fields["digest"]
    traffic.append(10)
    command("rollback", "--incident", incident, "--reason", "x")
    assert command("replay", "start", digest, "--reason", "x").code == 4


def test_a_stuck_run_ends_with_3_and_can_be_retried(conn: database.Connection, command: Command) -> None:
    _, stable, _ = bad_deployment(conn)
    head = log.head(conn).position
    which = ["--positions", 1, head + 1, "--model", stable[0], "--calibration", stable[1]]
    run_id = started(command, which)
    conn.execute("UPDATE replay_chunks SET status = 'quarantined', attempts = 5, last_error = 'full disk'")
    stuck = command("replay", "watch", run_id)
    assert stuck.code == 3
    assert "full disk" in stuck.said
    assert f"clickledger replay retry {run_id}" in stuck.said
    assert command("replay", "retry", run_id).fields["released"] == 1
    timed_out = command("replay", "watch", run_id, "--timeout", 0.01)
    assert timed_out.code == 5
    assert command("replay", "cancel", run_id, "--reason", "x").code == 0
    assert command("replay", "watch", run_id).code == 3


def test_an_incident_can_be_set_aside(conn: database.Connection, command: Command) -> None:
    _, incident = raised(conn)
    assert command("incident", "abandon", incident, "--reason", "a campaign of ours").fields["status"] == "abandoned"
    assert command("rollback", "--incident", incident, "--reason", "x").code == 3
    assert log.read(conn, kinds=["rollback_declared"]) == []


def test_a_replay_is_paused_resumed_and_done_all_over_again(conn: database.Connection, command: Command) -> None:
    _, stable, _ = bad_deployment(conn)
    run_id = started(command, ["--deployment", 2, "--model", stable[0]])
    assert command("replay", "resume", run_id, "--reason", "x").code == 3
    paused = command("replay", "pause", run_id, "--reason", "the site is slow", "--actor", "ann")
    assert f"next: clickledger replay resume {run_id}" in paused.said
    assert command("replay", "list").fields["runs"][0]["stage"] == "paused"
    assert log.read(conn, kinds=["replay_paused"])[0].actor == "cli:ann"
    assert command("replay", "resume", run_id, "--reason", "x").code == 0
    again = command("replay", "retry", run_id, "--reprocess", "all", "--reason", "to be sure").fields["run_id"]
    assert [r["stage"] for r in command("replay", "list").fields["runs"]] == ["abandoned", "replaying"]
    work(conn, again)
    assert command("replay", "watch", again).code == 0


def test_a_backtest_shows_what_a_model_would_have_decided_and_cannot_be_published(
    conn: database.Connection, command: Command
) -> None:
    _, stable, _ = bad_deployment(conn)
    head = log.head(conn).position
    run_id = started(command, ["--positions", 1, head + 1, "--model", stable[0], "--backtest"])
    work(conn, run_id)
    watched = command("replay", "watch", run_id)
    assert watched.fields["comparison"]["flips"] > 0
    assert "never published" in watched.said
    digest = watched.fields["comparison"]["digest"]
    assert command("replay", "publish", run_id, "--digest", digest, "--reason", "x").code == 3


def test_leaving_a_watch_leaves_the_replay_and_says_how_to_come_back(
    conn: database.Connection, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stable, _ = bad_deployment(conn)
    run_id = started(command, ["--deployment", 2, "--model", stable[0]])

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(replay_watch.time, "sleep", interrupted)
    left = command("replay", "watch", run_id)
    assert (left.code, left.fields["detached"]) == (0, True)
    assert f"next: clickledger replay watch {run_id}" in left.said


def test_rate_and_time_left_are_those_of_the_last_seconds() -> None:
    rate = replay_watch.Rate()
    for second in range(41):
        rate.note(float(second), 1_000 * min(second, 20) + 100 * max(second - 20, 0))
    assert rate.clicks_per_second == pytest.approx(100)
    assert rate.seconds_left(500) == pytest.approx(5)
    rate.note(80.0, 22_000)
    assert rate.seconds_left(500) is None


def test_above_a_cap_it_takes_two_people_to_publish_and_to_revert(
    conn: database.Connection, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, stable, _ = bad_deployment(conn)
    run_id = started(command, ["--deployment", 2, "--model", stable[0]])
    work(conn, run_id)
    monkeypatch.setenv("CLICKLEDGER_CAP_PUBLICATION_MICROS", "1000")
    digest = command("replay", "compare", run_id, "--actor", "ann").fields["digest"]
    conn.execute("ALTER TABLE log DISABLE TRIGGER ALL")
    conn.execute("UPDATE log SET actor = 'recovery' WHERE position = %s", (run_id,))
    publish = ("replay", "publish", run_id, "--digest", digest, "--reason", "checked")
    alone = command(*publish, "--actor", "ann")
    assert (alone.code, alone.out) == (3, "")
    assert "above the cap of 0.00 EUR; expected another person than cli:ann" in alone.said
    assert f"clickledger replay compare {run_id}" in alone.said
    assert command(*publish, "--actor", "bob").code == 0
    revert = ("replay", "revert", run_id, "--reason", "to be sure")
    assert command(*revert, "--actor", "bob").code == 3
    proposed = command("replay", "propose-revert", run_id, "--reason", "it is wrong", "--actor", "ann")
    assert f"next: clickledger replay revert {run_id} --reason ..., by somebody else" in proposed.said
    assert command(*revert, "--actor", "bob").code == 0
    assert log.read(conn, kinds=["replay_reverted"])[0].payload["prepared_by"] == "cli:ann"


def test_proposals_are_listed_with_the_command_that_publishes_them(
    conn: database.Connection, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(due_corrections, "SETTLED_AFTER", timedelta(0))
    traffic, _, _ = bad_deployment(conn, batches=1)
    traffic.append(10, late=2)
    assert command("replay", "proposals").fields == {"proposals": []}
    assert due_corrections.look(conn, "recovery") is not None
    shown = command("replay", "proposals")
    [one] = shown.fields["proposals"]
    assert (one["clicks"], one["what"]) == (2, due_corrections.RESOLVED)
    publish = f"replay publish {one['run_id']} --digest {one['digest']} --reason"
    assert f"next: clickledger {publish}" in shown.said
    assert command(*publish.split(), "resolved").code == 0
    assert command("replay", "proposals").fields == {"proposals": []}


def test_an_incident_is_taken_on_noted_and_summed_up(conn: database.Connection, command: Command) -> None:
    _, incident = raised(conn)
    taken = command("incident", "ack", incident)
    assert taken.fields["held_by"].startswith("cli")
    assert command("incident", "note", incident, "labels were missing").code == 0
    shown = command("incident", "list").fields["incidents"][0]
    assert shown["held_by"] == taken.fields["held_by"]
    told = [step["what"] for step in command("incident", "show", incident).fields["steps"]]
    assert told == ["raised", "acknowledged", "note"]

    before = command("incident", "summary", incident).fields
    assert (before["flips"], before["published_at"]) == (None, None)
    assert "nothing yet; model 2 may decide on." in before["text"]
    command("rollback", "--incident", incident, "--reason", "people withheld")
    run_id = started(command, ["--incident", incident])
    work(conn, run_id)
    compared = command("incident", "summary", incident).fields
    digest = command("replay", "watch", run_id).fields["comparison"]["digest"]
    assert compared["next"] == f"clickledger replay publish {run_id} --digest {digest} --reason ..."
    assert compared["left_to_people"] is None and "not published." in compared["text"]
    small = steps.Policy(auto_publish_gross_micros=10**12, caps=Caps(publication_micros=1))
    steps.advance(conn, small, AUTOMATIC)
    left = command("incident", "summary", incident).fields
    assert "above the cap of 0.00 EUR" in left["left_to_people"]
    assert f"not published, which is left to people: run {run_id}: it moves " in left["text"]
    assert command("incident", "show", incident).fields["steps"][-1]["what"] == "publication left to people"
    command("replay", "publish", run_id, "--digest", digest, "--reason", "checked")
    after = command("incident", "summary", incident).fields
    assert after["left_to_people"] is None
    assert after["status"] == "published" and after["flips"] > 0
    assert "labels were missing" in after["text"] and f"{after['flips']:,} decisions change" in after["text"]
    money = after["money"]["USD"]
    assert money["before"] + money["change"] == money["after"]


def test_a_plan_says_by_which_models_it_decides() -> None:
    by_slice = {"*": [3, 5], "web/out": [4, 6]}
    assert recovery_words.decided_by(3, 5, None) == "model 3 with calibration 5"
    assert recovery_words.decided_by(0, 0, None) == "the models that decided them"
    assert recovery_words.decided_by(0, 0, by_slice) == (
        "model 3 with calibration 5 in all other slices, model 4 with calibration 6 in web/out"
    )


def test_rollback_shows_what_it_considered(conn: database.Connection, command: Command) -> None:
    _, incident = raised(conn)
    done = command("rollback", "--incident", incident, "--reason", "people withheld")
    assert done.fields["considered"][0]["why"] == "taken"
    assert "considered to go back to" in done.said


def test_an_incident_can_be_raised_by_hand(conn: database.Connection, command: Command) -> None:
    bad_deployment(conn)
    by_hand = command("incident", "raise", "--reason", "a page said so")
    incident = by_hand.fields["incident_id"]
    assert f"next: clickledger rollback --incident {incident} --reason" in by_hand.said
    assert command("incident", "raise", "--reason", "again").code == 3
    steps.advance(conn, steps.Policy(rollback="propose"), "tests")
    shown = command("incident", "show", incident)
    assert shown.fields["proposed"]["rollback_to"]["model"] == 1
    assert "proposed: back to model 1" in shown.said


def test_a_comparison_is_told_in_detail_and_on_a_page_of_its_own(
    conn: database.Connection, command: Command, tmp_path: Path
) -> None:
    _, incident = raised(conn)
    command("rollback", "--incident", incident, "--reason", "people withheld")
    run_id = started(command, ["--incident", incident])
    work(conn, run_id)
    report = tmp_path / "report.html"
    compared = command("replay", "compare", run_id, "--report", report)
    assert compared.code == 0
    told = compared.fields["effects"]
    assert told["rates"]["flips"] == compared.fields["flips"] == told["matrix"]["invalid"]["valid"]
    page = report.read_text()
    assert page.count("<svg") == 5 and "http" not in page.split("<body>")[0]
    assert compared.fields["digest"] in page and told["changed"][0]["click_id"] in page
    shown = command("replay", "compare", run_id, "--last", "--report", report)
    assert shown.fields["digest"] == compared.fields["digest"]
    assert report.read_text() == page
    assert command("replay", "compare", run_id, "--last", "--report", tmp_path / "no" / "such").code == 2
