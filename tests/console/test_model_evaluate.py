"""`clickledger model evaluate`: small simulated files, and the real clicks where they are."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from commands import Answer

from clickledger.console import cli
from clickledger.scoring import model_comparison, training, tuning
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.simulation import SimulationConfig, simulate

SHARED_DATA = Path(
    os.environ.get("CLICKLEDGER_SHARED_DATA") or Path(__file__).resolve().parents[2].parent / "shared" / "data"
)
REAL = SHARED_DATA / "talkingdata_20171107_1131.csv"
GALLERY = Path(__file__).resolve().parents[2] / "docs" / "gallery"
HOUR_MS = 3_600_000
CONFIG = training.TrainingConfig(epochs_max=4, l2=1e-3)
FAST = replace(CONFIG, learning_rate=1e-2)
MODELS = ["network", "logistic_regression", "velocity"]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):  # type: ignore[no-untyped-def]  # a function of any words
    """Runs the command with one candidate for each kind that learns, without any home or server."""
    every = tuning.candidates()
    short = {
        "network": (tuning.Candidate({}, lambda part, seed: training.train_network(part, CONFIG, seed)),),
        "logistic_regression": (
            tuning.Candidate({}, lambda part, seed: training.train_logistic_regression(part, FAST, seed)),
        ),
        "velocity": every["velocity"],
    }
    monkeypatch.setattr(tuning, "candidates", lambda: short)
    crossed = replace(CONFIG, epochs_max=1, cross=1)
    settings = {"l2": crossed.l2, "cross": 1}
    one = tuning.Candidate(settings, lambda part, seed: training.train_deep_cross(part, crossed, seed))
    monkeypatch.setattr(tuning, "cross_candidates", lambda: (one,))
    monkeypatch.setattr(tuning, "cross_candidate", lambda _settings: one)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: object, command: str = "evaluate") -> Answer:
        capfd.readouterr()
        return Answer(cli.run(["model", command, *map(str, words), "--json"]), *capfd.readouterr())

    return run


def written(folder: Path, name: str, seed: int, start_ms: int) -> tuple[Path, Path]:
    """A file of simulated clicks, and one of what they led to."""
    config = SimulationConfig(clicks=5_000, start_ms=start_ms, duration_hours=24, seed=seed)
    traffic, _ = simulate(config)
    clicks, outcomes = folder / f"{name}.ndjson", folder / f"{name}.outcomes.ndjson"
    traffic.write_ndjson(clicks)
    made = traffic.to_clicks(Pseudonyms(bytes(32)))
    external = {click.click_id: click.external_id for click in made}
    with outcomes.open("w") as file:
        for outcome in traffic.to_outcomes(made):
            row = {"click_id": external[outcome.click_id], "occurred_at": outcome.occurred_at_ms}
            file.write(json.dumps({**row, "value_micros": outcome.value_micros}) + "\n")
    return clicks, outcomes


START_MS = 1_759_104_000_000


def test_one_file_is_cut_in_time_and_every_model_told_with_its_intervals(evaluate, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # a fixture
    clicks, outcomes = written(tmp_path, "day", 1, START_MS)
    page = tmp_path / "page.html"
    answer = evaluate("--clicks", clicks, "--outcomes", outcomes, "--draws", 30, "--seeds", 2, "--report", page)
    assert answer.code == 0, answer.said
    told = answer.fields
    assert list(told["models"]) == MODELS
    assert told["train"]["to_ms"] < told["border_ms"] == told["test"]["from_ms"] and told["in_time_order"]
    assert told["train"]["rows"] + told["test"]["rows"] == told["files"][0]["clicks"] == 5_000
    for model in told["models"].values():
        assert model["auc_interval"][0] <= model["auc"] <= model["auc_interval"][1]
        assert list(model["ivr_at_fpr"]) == list(model["ivr_at_fpr_interval"]) == ["0.01", "0.02", "0.05"]
    assert told["labels"] == model_comparison.LABELS and told["bootstrap"]["resampled"] == "user"
    text = page.read_text()
    assert "<svg" in text and "day.ndjson (5,000 clicks)" in text
    assert_stands_alone(text)
    assert told["decision_rate"]["value"] == 1.0 and told["label_density"].keys() == {"outcomes", "standing"}
    assert set(told["knees"]) == set(told["curves"]) == set(told["coverage_at_fpr"]) == set(MODELS)
    assert "network - logistic_regression" in answer.said and "next: clickledger model train" in answer.said


def test_two_files_are_counted_apart(evaluate, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # a fixture
    first, bought = written(tmp_path, "first", 1, START_MS)
    later, bought_later = written(tmp_path, "later", 2, START_MS + 27 * HOUR_MS)
    files = ("--train", first, "--test", later, "--outcomes", bought, "--outcomes", bought_later)
    answer = evaluate(*files, "--draws", 20, "--seeds", 1, "--options")
    assert answer.code == 0, answer.said
    told = answer.fields["options"]["options"]["entity_vectors"]
    assert told["auc_lead_interval"][0] <= told["auc_lead_interval"][1] and "options, test part" in answer.said
    assert [source["clicks"] for source in answer.fields["files"]] == [5_000, 5_000]
    assert answer.fields["files"][0]["outcomes_of_other_clicks"] > 0
    swapped = evaluate("--train", later, "--test", first, *files[4:], "--draws", 20, "--seeds", 1)
    assert not swapped.fields["in_time_order"] and "begins before the training part ends" in swapped.said


def test_simulated_clicks_are_told_by_kind_of_robot(evaluate) -> None:  # type: ignore[no-untyped-def]  # a fixture
    answer = evaluate(
        "--simulated", 6_000, "--days", 3, "--seeds", 2, "--draws", 20, "--options", "--report", "page.html"
    )
    assert answer.code == 0, answer.said
    assert [run["seed"] for run in answer.fields["runs"]] == [1, 2]
    first = answer.fields["runs"][0]
    network = first["models"]["network"]
    low, high = network["intervals"]["recall"]
    assert low <= network["recall"] <= high and "botnet" in network["intervals"]["recall_by_kind"]
    assert sum(network["invalidated_by_kind"].values()) == round(network["ivr"] * first["test"]["rows"])
    calibrated = answer.fields["calibration"]
    assert {"people", "recall"} <= calibrated["figures"]["by_slice"]["*"].keys()
    assert calibrated["figures"]["by_slice"]["*"]["fpr"] == calibrated["figures"]["global_at_equal_fpr"]["*"]["fpr"]
    page = Path("page.html").read_text()
    assert "click_farm" in answer.said and page.count("<svg") == 4
    assert answer.fields["runs"][1]["options"]["options"].keys() == {"deep_cross", "entity_vectors"}
    assert_stands_alone(page)


def test_the_gallery_is_the_files_of_the_documentation_and_no_others(evaluate, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # a fixture
    """Made small here; `make gallery` makes those of docs/gallery by the same command."""
    answer = evaluate(tmp_path / "made", "--clicks", 20_000, "--days", 3, "--draws", 20, command="gallery")
    assert answer.code == 0, answer.said
    files = {file.name for file in (tmp_path / "made").iterdir()}
    assert files == set(answer.fields["files"]) == {file.name for file in GALLERY.iterdir()}
    named = set(re.findall(r"\]\((\w+\.svg)\)", (GALLERY / "README.md").read_text()))
    assert named == files - {"README.md"}
    assert sum(file.stat().st_size for file in GALLERY.iterdir()) < 400_000
    for name in named:
        assert_stands_alone((tmp_path / "made" / name).read_text())


def assert_stands_alone(text: str) -> None:
    """Nothing is read from elsewhere, every picture is named in words, and every reference within has its target."""
    targets = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert all(target.startswith("#") for target in targets) and "@import" not in text
    assert {target[1:] for target in targets} <= set(re.findall(r"""\bid=["']([^"']*)""", text))
    assert all('role="img" aria-label="' in opening for opening in re.findall(r"<svg[^>]*>", text))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected one of --clicks, --train/--test, --simulated, got none"),
        (("--train", "a"), "expected --test FILE beside --train, got nothing"),
        (("--clicks", "nowhere.csv"), "clicks file nowhere.csv: expected a readable file, got: No such file"),
        (("--simulated", "10"), "simulation: clicks: expected 1000 to"),
        (("--train", "a", "--test", "b", "--test-share", "0.3"), "test share: expected none with two files, got 0.3"),
    ],
)
def test_what_cannot_be_evaluated_is_named(evaluate, words: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]  # a fixture
    answer = evaluate(*words)
    assert answer.code == 2 and message in answer.said and not answer.out


def test_clicks_without_outcomes_and_bad_rows_name_file_and_line(evaluate, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # a fixture
    clicks, _ = written(tmp_path, "day", 1, START_MS)
    with clicks.open("a") as file:
        file.write("no click\n")
    answer = evaluate("--clicks", clicks)
    assert answer.code == 2
    assert f"{clicks}: line 5001: row: expected one JSON object" in answer.said
    assert "got 5000 clicks without; name them with --outcomes FILE" in answer.said


def test_on_real_clicks_the_network_is_above_the_velocity_rule(evaluate, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]  # a fixture
    if not REAL.exists():
        pytest.skip(f"no real clicks at {REAL}; name their folder in CLICKLEDGER_SHARED_DATA")
    some = tmp_path / "some.csv"
    with REAL.open("rb") as file:
        some.write_bytes(b"".join(islice(file, 50_001)))  # a random half: the file is not sorted
    answer = evaluate("--clicks", some, "--format", "talkingdata", "--draws", 20, "--seeds", 1)
    assert answer.code == 0, answer.said
    source, models = answer.fields["files"][0], answer.fields["models"]
    assert source["rows"] == 50_000 == source["clicks"] + source["repeats"]
    assert models["network"]["auc"] > models["velocity"]["auc"]  # .83 and .75 on the whole file
