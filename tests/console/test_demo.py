"""The demo, whole, in its own processes; and what people ask of the ledger it leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
REAL_CLICKS = Path(os.environ.get("CLICKLEDGER_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
REAL_FILE = REAL_CLICKS / "talkingdata_20171107_1131.csv"
SECONDS_MAX = 280
COUNT = 40_000


def command(home: Path, *words: object, expect: int = 0) -> dict[str, Any]:
    """Run `clickledger WORDS --json`; its last line of stdout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CLICKLEDGER_")}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "clickledger.console.cli", *map(str, words), "--json"],
        env={**environment, "CLICKLEDGER_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert ended.returncode == expect, ended.stderr[-4000:]
    assert "Traceback" not in ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def require_promises(facts: dict[str, Any]) -> None:
    """What every demo must end with."""
    assert facts["authoritative_decisions"] == facts["live_decisions"] == facts["clicks"]
    assert facts["rollback"]["appended_by_rolled_back_model_after"] == 0
    money = facts["money_micros"]
    assert money["billed_before"] + money["adjustments"] == money["billed_after"]
    assert all(facts[name] for name in facts if name.endswith("_ok"))
    assert facts["rescored_exact"] == facts["rescored"] > 0
    assert facts["replay"]["flips"] > 0
    assert facts["anomaly"]["signals"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def facts(home: Path) -> dict[str, Any]:
    """A demo on simulated clicks."""
    return command(home, "demo", "--count", COUNT)


@pytest.fixture(scope="module")
def ledger(home: Path, facts: dict[str, Any]) -> Iterator[Path]:
    """The ledger that demo left behind, its servers up again."""
    (folder,) = home.glob("demo-*")
    command(folder, "up", "--no-workers")
    yield folder
    command(folder, "down")


def test_bad_model_is_noticed_rolled_back_and_corrected(facts: dict[str, Any]) -> None:
    require_promises(facts)
    assert facts["clicks"] == COUNT
    truth = facts["truth"]
    assert truth["wrongly_withheld_after"] * 5 <= truth["wrongly_withheld_before"]


def test_why_tells_the_whole_story_of_a_corrected_click(ledger: Path, facts: dict[str, Any]) -> None:
    story = command(ledger, "why", facts["provenance_click_id"])
    live, delayed = story["decisions"]
    assert (live["run_id"], live["verdict"]) == (None, "invalid")
    assert (delayed["run_id"], delayed["verdict"]) == (facts["replay"]["run_id"], "valid")
    assert story["authoritative_run_id"] == facts["replay"]["run_id"]
    assert live["deployed"]["revoked"]["position"] == facts["rollback"]["position"]
    assert [entry["kind"] for entry in delayed["history"]] == [
        "replay_published",
        "replay_reverted",
        "replay_published",
    ]
    assert [line["entry_kind"] for line in story["billing"]] == ["adjustment", "reversal", "adjustment"]
    assert sum(line["amount_micros"] for line in story["billing"]) == story["click"]["cost_micros"]
    assert all(again["exact"] for again in story["rescored"])
    assert story["features"]["user_clicks_10s"] >= 1


def test_click_is_found_by_the_senders_id_too(ledger: Path, facts: dict[str, Any]) -> None:
    by_id = command(ledger, "why", facts["provenance_click_id"])
    assert command(ledger, "why", by_id["click"]["external_id"])["click"] == by_id["click"]


def test_ledger_of_the_demo_verifies(ledger: Path, facts: dict[str, Any]) -> None:
    report = command(ledger, "audit", "verify")
    assert report["ok"]
    assert all(report["checks"].values())
    assert report["rows"] >= facts["clicks"] + facts["replay"]["clicks"]


def test_range_verifies_and_says_what_it_left_out(ledger: Path, facts: dict[str, Any]) -> None:
    report = command(ledger, "audit", "verify", "--from", 3, "--to", 40, "--jobs", 2)
    assert (report["from"], report["head"], report["entries"], report["jobs"]) == (3, 40, 38, 2)
    assert report["checks"] == {"chain": True, "digests": True}
    assert {"money", "folds", "re-scored decisions"} <= set(report["unverified"])


def test_range_beyond_the_log_is_a_wrong_input(ledger: Path, facts: dict[str, Any]) -> None:
    environment = {**os.environ, "CLICKLEDGER_HOME": str(ledger)}
    words = [sys.executable, "-P", "-m", "clickledger.console.cli", "audit", "verify", "--to", "1000000"]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert ended.returncode == 2
    assert "error: positions: expected a range within 1 to" in ended.stderr


def test_totals_as_of_an_earlier_position_are_those_of_then(ledger: Path, facts: dict[str, Any]) -> None:
    now = command(ledger, "totals")
    assert now["totals"]["USD"]["billed_micros"] == facts["money_micros"]["billed_after"]
    assert now["totals"]["USD"]["feed_posted_micros"] == facts["money_micros"]["billed_after"]
    story = command(ledger, "why", facts["provenance_click_id"])
    published = story["decisions"][1]["history"][0]["position"]
    before = command(ledger, "totals", "--as-of", published - 1)
    assert before["totals"]["USD"]["billed_micros"] == facts["money_micros"]["billed_before"]


def test_stable_model_is_live_again(ledger: Path) -> None:
    models = {model["model_version"]: model["aliases"] for model in command(ledger, "model", "list")["models"]}
    assert models == {1: ["stable"], 2: ["live"], 3: []}


def test_demo_on_real_clicks(tmp_path: Path) -> None:
    if not REAL_FILE.exists():
        pytest.skip(f"no real clicks at {REAL_FILE}")
    facts = command(tmp_path, "demo", "--clicks", REAL_FILE, "--format", "talkingdata")
    require_promises(facts)
    assert facts["duplicates"] == 188
    assert facts["clicks"] == 100_000 - 188
    assert facts["rejected"] == 0
