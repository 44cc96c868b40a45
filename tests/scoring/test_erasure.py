"""Erasure: identities are gone, history is not, counting goes on; whatever is cut short is completed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psycopg
import pytest

from clickledger import errors
from clickledger.ledger import append, audit, database, log
from clickledger.ledger.records import Batch
from clickledger.ledger.rights import Role
from clickledger.scoring import erasure, intake, pseudonym_key
from clickledger.scoring.click import Click
from clickledger.scoring.pseudonyms import Pseudonyms

NOW_MS = 1_750_000_000_000
FIELDS = {
    "event_time": NOW_MS - 1000, "user_id": "ada.l", "ip": "192.0.2.1", "user_agent": "pixel", "device_kind": "mobile",
    "advertiser_id": "a", "campaign_id": "c", "cost_micros": 5, "currency": "EUR",
}  # fmt: skip
COLUMNS = (
    "click_id", "user_key", "session_key", "ip_key", "intake_digest", "source", "external_id", "device", "device_kind",
    "advertiser_id", "campaign_id", "currency", "slice", "cost_micros", "logged_in",
)  # fmt: skip


@pytest.fixture
def admin(database_url: str) -> Iterator[database.Connection]:
    with database.connect(database_url) as connection:
        yield connection


@pytest.fixture
def conn(database_url: str) -> Iterator[database.Connection]:
    """As the role of whoever holds the key."""
    with database.connect(database_url, role=Role.INGESTER) as connection:
        yield connection


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    pseudonym_key.read_or_make(tmp_path / "pseudonym.key")
    return tmp_path / "pseudonym.key"


def click(key_file: Path, sent_id: str) -> Click:
    """A click of ada's, as intake makes it of what the sender says, under the key that is there."""
    line = json.dumps(FIELDS | {"click_id": sent_id}).encode()
    return intake.parse_ndjson_line(line, Pseudonyms(pseudonym_key.read_or_make(key_file)), now_ms=NOW_MS)


def decided(clicks: Sequence[Click], seq: int) -> Batch:
    """Clicks of no deployment, counted from `seq` on."""
    n = len(clicks)
    return Batch(
        deployment_epoch=0,
        counter_epoch=1,
        feature_schema=1,
        features=[bytes(4)] * n,
        seq=range(seq, seq + n),
        model_version=np.zeros(n, np.int32),
        calibration_version=np.zeros(n, np.int32),
        score=np.full(n, np.nan, np.float32),
        threshold=np.full(n, np.nan, np.float32),
        verdict=["undecided"] * n,
        reason=["no_model"] * n,
        **{name: [getattr(one, name) for one in clicks] for name in COLUMNS},
    )


def users(admin: database.Connection) -> list[bytes]:
    return [row[0].bytes for row in admin.execute("SELECT user_key FROM clicks ORDER BY log_position, seq")]


def test_erased_ledger_verifies_counts_on_and_tells_nobody_whose_clicks_they_were(
    admin: database.Connection, conn: database.Connection, key_file: Path
) -> None:
    old_key = pseudonym_key.read(key_file)
    append.append(admin, decided([click(key_file, "1"), click(key_file, "2")], 1), actor="tests")
    erased = erasure.erase(conn, key_file, "dpo", "the account asked")

    entry = log.entry(conn, erased.position)
    assert (entry.kind, entry.actor, entry.reason) == ("pseudonym_key_destroyed", "dpo", "the account asked")
    assert entry.payload == {"fingerprint": pseudonym_key.fingerprint(old_key)}
    assert list(key_file.parent.iterdir()) == []

    append.append(admin, decided([click(key_file, "3")], 3), actor="tests")
    first, second, third = users(admin)
    assert first == second == Pseudonyms(old_key).user("ada.l")
    assert third == Pseudonyms(pseudonym_key.read(key_file)).user("ada.l") != first
    report = audit.verify(admin)
    assert (report.ok, report.rows) == (True, 3), report.failures


def test_click_sent_again_after_erasure_is_a_conflict_and_the_first_version_stays(
    admin: database.Connection, conn: database.Connection, key_file: Path
) -> None:
    append.append(admin, decided([click(key_file, "1")], 1), actor="tests")
    kept = users(admin)
    erasure.erase(conn, key_file, "dpo", "test")
    assert append.append(admin, decided([click(key_file, "1")], 2), actor="tests").outcome == ["conflict"]
    assert users(admin) == kept


def test_nothing_is_destroyed_when_the_entry_cannot_be_recorded(conn: database.Connection, key_file: Path) -> None:
    key = pseudonym_key.read(key_file)
    with pytest.raises(errors.InvalidInput, match="actor"):
        erasure.erase(conn, key_file, "", "test")
    # Set aside, not gone: the next call goes on with this key, whatever intake made meanwhile.
    pseudonym_key.read_or_make(key_file)
    assert erasure.erase(conn, key_file, "dpo", "test").fingerprint == pseudonym_key.fingerprint(key)
    assert [path.name for path in key_file.parent.iterdir()] == ["pseudonym.key"]


@pytest.mark.parametrize("overwritten", [False, True])
def test_erasure_cut_short_after_its_entry_is_completed_and_recorded_once(
    conn: database.Connection, key_file: Path, monkeypatch: pytest.MonkeyPatch, overwritten: bool
) -> None:
    condemned = key_file.with_name("pseudonym.key.condemned")

    def die(path: Path) -> None:
        if overwritten:
            path.write_bytes(bytes(path.stat().st_size))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pseudonym_key, "destroy", die)
        with pytest.raises(KeyboardInterrupt):
            erasure.erase(conn, key_file, "dpo", "test")
    assert condemned.exists()
    again = erasure.erase(conn, key_file, "dpo", "test")
    assert not condemned.exists()
    assert [entry.position for entry in log.read(conn, kinds=[erasure.KIND])] == [again.position]


def test_each_key_is_erased_and_recorded_by_its_own_call(conn: database.Connection, key_file: Path) -> None:
    first = erasure.erase(conn, key_file, "dpo", "test")
    pseudonym_key.read_or_make(key_file)
    second = erasure.erase(conn, key_file, "dpo", "test")
    assert first.fingerprint != second.fingerprint
    assert len(log.read(conn, kinds=[erasure.KIND])) == 2


def test_key_behind_a_link_is_destroyed_where_it_lies(
    conn: database.Connection, key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("home") / "pseudonym.key"
    link.symlink_to(key_file)
    erasure.erase(conn, link, "dpo", "test")
    assert not key_file.exists()
    assert pseudonym_key.read_or_make(link) == pseudonym_key.read(key_file)


def test_there_is_nothing_to_erase_without_a_key(conn: database.Connection, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="expected the key of the pseudonyms"):
        erasure.erase(conn, tmp_path / "pseudonym.key", "dpo", "test")
    assert log.read(conn, kinds=[erasure.KIND]) == []


def test_only_who_holds_the_key_may_record_that_it_is_gone(database_url: str, key_file: Path) -> None:
    with (
        database.connect(database_url, role=Role.SCORER) as scorer,
        pytest.raises(errors.Refused, match="may not record an entry of kind pseudonym_key_destroyed"),
    ):
        erasure.erase(scorer, key_file, "worker", "test")


def test_ledger_holds_no_identity_in_the_clear(admin: database.Connection, key_file: Path) -> None:
    append.append(admin, decided([click(key_file, "1")], 1), actor="tests")
    row: psycopg.rows.TupleRow | None = admin.execute("SELECT c::text FROM clicks c").fetchone()
    assert row is not None
    assert "ada.l" not in row[0]  # with a dot: pseudonyms are hex digits, which may spell "ada"
    assert "192.0.2.1" not in row[0]
