"""A drill, whole, in its own processes, in its smallest form; and what its account counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from decided_traffic import SLICES, bad_deployment

from clickledger.console import drill_account
from clickledger.ledger import database, deployments, log, publication
from clickledger.recovery import plans, replay, rollback, steps, working
from clickledger.recovery.plans import What
from clickledger.recovery.working import Worker
from clickledger.scoring import feature_spec

REPOSITORY = Path(__file__).parents[2]
SECONDS_MAX = 280


def drill(home: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CLICKLEDGER_")}
    own = {"CLICKLEDGER_HOME": str(home), "CLICKLEDGER_DETECT_INTERVAL_SECONDS": "2", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-P", "-m", "clickledger.console.cli", "drill", *map(str, words), "--json"],
        env=environment | own,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def test_a_wrong_threshold_is_noticed_rolled_back_corrected_and_accounted_for(tmp_path: Path) -> None:
    ended = drill(tmp_path, "threshold-typo", "--clicks", 1_000, "--history", 20_000, "--rate", 300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    facts: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    for name in ("appended_by_revoked_after", "doubled_billing", "differs_from_stable"):
        assert facts[name] == 0
    for name in ("noticed_after_seconds", "rolled_back_after_seconds", "published_after_seconds"):
        assert facts[name] > 0
    assert 0 < facts["flips"] <= facts["clicks"]
    assert facts["wrongly_withheld_micros_after"] * 5 <= facts["wrongly_withheld_micros_before"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("floods",),
            "expected one of bad-model, threshold-typo, late-purchases, counter-loss, missing-labels, got 'floods'",
        ),
        (("bad-model", "--clicks", 10), "expected at least 1000 clicks"),
    ],
)
def test_a_drill_that_cannot_be_is_a_wrong_input(tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    ended = drill(tmp_path, *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr and "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("drill-*"))


def test_the_account_finds_what_must_not_be(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn, clicks=100, batches=3)
    lo = deployments.current(conn).position
    done = rollback.roll_back(conn, bad[0], "tests")
    robots = set(traffic.ids[:40])

    def differing() -> int:
        return drill_account.differs_from(conn, *stable, lo, done.position)

    wrong = conn.execute(
        "SELECT count(*) FROM decisions WHERE model_version = %s AND verdict = 'invalid' AND score < 100", (bad[0],)
    ).fetchone()
    assert wrong is not None and wrong[0] > 0
    assert differing() == 300  # the thresholds are alike, but not one score is
    before = drill_account.treated(conn, log.head(conn).position, lo, done.position, robots)
    assert before["wrongly_withheld"] > 0 and before["wrongly_withheld_micros"] > before["wrongly_withheld"]
    run = replay.start(conn, plans.for_positions(conn, lo, done.position, What(stable)), "tests", "")
    working.work(conn, run.run_id, Worker("tests", 60.0), 60.0)
    compared = steps.finish(conn, run.run_id, "tests")
    assert compared is not None
    publication.publish(conn, run.run_id, compared.digest, "tests", "")
    after = drill_account.treated(conn, log.head(conn).position, lo, done.position, robots)
    assert after["wrongly_withheld"] < before["wrongly_withheld"]
    assert (differing(), drill_account.doubled(conn)) == (0, 0)
    assert drill_account.appended_after(conn, done.revoked_epochs, done.position) == 0
    assert drill_account.appended_after(conn, done.revoked_epochs, 0) == 300


def test_the_account_of_clicks_that_a_model_did_not_decide_counts_them(conn: database.Connection) -> None:
    traffic, stable, bad = bad_deployment(conn, clicks=30, batches=1)
    assert len(SLICES) == 3 and traffic.count == 90
    head = log.head(conn).position + 1
    assert drill_account.differs_from(conn, *bad, deployments.current(conn).position, head) == 0
    assert drill_account.differs_from(conn, *stable, deployments.current(conn).position, head) == 30


def test_the_account_beside_sound_counters_finds_each_wrong_decision_and_names_what_was_not_counted(
    conn: database.Connection,
) -> None:
    traffic, _, _ = bad_deployment(conn, clicks=60, batches=1)  # decided by two models
    traffic.append(30, late=7)
    rows = conn.execute("SELECT uuid_send(click_id), features FROM clicks").fetchall()
    recorded: dict[bytes, bytes] = dict(rows)
    assert drill_account.differs_from_sound(conn, recorded, log.head(conn).position) == (0, {"late": 7})
    shift = feature_spec.INDEX["user_clicks_1h"]
    wrong = [click_id for click_id in sorted(recorded) if click_id in set(traffic.ids[10:50])]
    for click_id in wrong:  # it was counted one click short: all scores are others, few verdicts
        features = feature_spec.unpack_snapshots([recorded[click_id]])
        features[0, shift] += 1
        [recorded[click_id]] = feature_spec.pack_snapshots(features)
    assert drill_account.differs_from_sound(conn, recorded, log.head(conn).position) == (len(wrong), {"late": 7})
