"""What is stored comes back as the bytes that were hashed, whatever the values."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import uuid
from typing import Any

import hypothesis
import pytest
from batches import Row, at, batch, click_id
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from clickledger.errors import InvalidInput
from clickledger.ledger import append, canonical, database, log, outcomes

ON_ONE_DATABASE = hypothesis.settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
FLOAT32_BITS = st.one_of(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0x80000000, 0x7FC00000, 0xFFC00000, 0x7F800000, 0xFF800000, 0x00000001, 0x7FC12345]),
)
INT64_MAX, INT32_MAX = 2**63 - 1, 2**31 - 1


def float32(bits: int) -> float:
    return float(struct.unpack(">f", struct.pack(">I", bits))[0])


ROWS = st.lists(
    st.fixed_dictionaries({
        "content": TEXT,
        "verdict": st.sampled_from(["valid", "invalid", "undecided"]),
        "cost_micros": st.integers(0, INT64_MAX),
        "seq": st.integers(-(2**63), INT64_MAX),
        "advertiser_id": TEXT,
        "campaign_id": TEXT,
        "currency": TEXT,
        "slice": TEXT,
        "reason": TEXT,
        "source": TEXT,
        "external_id": TEXT,
        "device": TEXT,
        "logged_in": st.sampled_from([None, False, True]),
        "features": st.binary(max_size=16),
        "score": FLOAT32_BITS.map(float32),
        "threshold": FLOAT32_BITS.map(float32),
        "model_version": st.integers(0, INT32_MAX),
        "calibration_version": st.integers(-(2**31), INT32_MAX),
    }),
    min_size=1,
    max_size=4,
)  # fmt: skip


def copied_rows(conn: database.Connection, query: str) -> list[bytes]:
    """The rows of a query as binary COPY sends them, each value behind its length, without the column counts."""
    with conn.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy:
        data = b"".join(bytes(block) for block in copy)
    offset, rows = 19, []
    while (columns := struct.unpack_from(">h", data, offset)[0]) >= 0:
        offset += 2
        start = offset
        for _ in range(columns):
            offset += 4 + max(0, struct.unpack_from(">i", data, offset)[0])
        rows.append(data[start:offset])
    return rows


def leaf(domain: bytes, row: bytes) -> bytes:
    return hashlib.sha256(domain + row).digest()


def recorded(conn: database.Connection, position: int) -> tuple[bytes, bytes]:
    query = "SELECT leaves, content_digest FROM leaves JOIN log USING (position) WHERE position = %s"
    found = conn.execute(query, (position,)).fetchone()
    assert found is not None
    return bytes(found[0]), bytes(found[1])


@ON_ONE_DATABASE
@given(rows=ROWS)
def test_stored_rows_give_the_recorded_leaves(conn: database.Connection, rows: list[dict[str, Any]]) -> None:
    first = log.head(conn).position * 10
    appended = append.append(
        conn, batch([Row(click_id(at("2024-03-10", n), first + n), **row) for n, row in enumerate(rows)]), actor="tests"
    )
    assert appended.position is not None
    columns = [f"c.{name}" for name in canonical.CLICK_COLUMNS] + [f"d.{name}" for name in canonical.DECISION_COLUMNS]
    stored = copied_rows(
        conn,
        f"SELECT {', '.join(columns)} FROM clicks c JOIN decisions d USING (click_id) "
        f"WHERE d.log_position = {appended.position} ORDER BY d.line",
    )
    leaves = b"".join(leaf(canonical.DECIDED_CLICK_DOMAIN, row) for row in stored)
    assert len(stored) == len(rows)
    assert recorded(conn, appended.position) == (leaves, hashlib.sha256(leaves).digest())


@pytest.mark.parametrize("bits", [0x80000000, 0x7FC00000, 0xFFC00001, 0x7F800000, 0xFF800000, 1])
def test_score_keeps_its_bits(conn: database.Connection, bits: int) -> None:
    row = Row(click_id(at("2024-03-10"), 1), score=float32(bits), threshold=float32(bits))
    append.append(conn, batch([row]), actor="tests")
    found = conn.execute("SELECT float4send(score), float4send(threshold) FROM decisions").fetchone()
    assert found == (struct.pack(">I", bits),) * 2


def test_every_column_of_clicks_and_decisions_is_hashed_or_derived(conn: database.Connection) -> None:
    derived = {"log_position", "line"}  # said by the entry and the order of its leaves
    query = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
    for table, hashed in [("clicks", canonical.CLICK_COLUMNS), ("decisions", canonical.DECISION_COLUMNS)]:
        assert {name for (name,) in conn.execute(query, (table,))} - derived == set(hashed)
    assert {name for (name,) in conn.execute(query, ("outcomes",))} - derived == set(canonical.OUTCOME_COLUMNS)
    assert {name for (name,) in conn.execute(query, ("delayed_decisions",))} == set(canonical.DELAYED_COLUMNS)


@ON_ONE_DATABASE
@given(
    st.lists(
        st.tuples(st.integers(0, 5), TEXT, st.integers(-(2**63), INT64_MAX), st.integers(0, INT64_MAX)), min_size=1
    )
)
def test_stored_outcomes_give_the_recorded_leaves(
    conn: database.Connection, told: list[tuple[int, str, int, int]]
) -> None:
    at_ms = at("2024-03-10", log.head(conn).position)  # clicks that no earlier example used
    appended = outcomes.append(conn, [outcomes.Outcome(click_id(at_ms, n), *rest) for n, *rest in told], "tests")
    assert appended.position is not None
    stored = copied_rows(
        conn,
        f"SELECT {', '.join(canonical.OUTCOME_COLUMNS)} FROM outcomes "
        f"WHERE log_position = {appended.position} ORDER BY line",
    )
    leaves = b"".join(leaf(canonical.OUTCOME_DOMAIN, row) for row in stored)
    assert recorded(conn, appended.position) == (leaves, hashlib.sha256(leaves).digest())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@ON_ONE_DATABASE
@given(payload=st.dictionaries(TEXT, JSON, max_size=3), actor=TEXT.filter(bool), reason=TEXT)
def test_server_and_client_agree_on_the_chain_hash(
    conn: database.Connection, payload: dict[str, Any], actor: str, reason: str
) -> None:
    before = log.head(conn)
    entry = log.record(conn, "noted", payload, actor, reason)
    assert entry.chain_hash == canonical.entry_hash(
        before.position + 1, "noted", entry.recorded_at_ms, actor, reason, entry.payload_text, 0,
        canonical.EMPTY_DIGEST, before.chain_hash,
    )  # fmt: skip
    assert log.entry(conn, entry.position) == entry
    assert log.entry(conn, entry.position).payload == payload


@given(JSON)
def test_canonical_json_reads_back_and_does_not_depend_on_key_order(value: Any) -> None:
    text = canonical.canonical_json(value)
    assert json.loads(text) == value
    assert canonical.canonical_json(json.loads(text)) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_name_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical.canonical_json({"value": value})


HASHED = {
    "position": 7,
    "kind": "noted",
    "recorded_at_ms": 1_700_000_000_000,
    "actor": "a",
    "reason": "bc",
    "payload": "{}",
    "row_count": 1,
    "content_digest": bytes(32),
    "previous": bytes(32),
}


@pytest.mark.parametrize(
    "changed",
    [
        {"position": 8},
        {"kind": "notedx", "actor": ""},
        {"recorded_at_ms": 1_700_000_000_001},
        {"actor": "ab", "reason": "c"},
        {"reason": "bc{}", "payload": ""},
        {"row_count": 2},
        {"content_digest": b"\x01" * 32},
        {"previous": b"\x01" * 32},
    ],
)
def test_every_field_and_its_boundary_changes_the_chain_hash(changed: dict[str, Any]) -> None:
    assert canonical.entry_hash(**HASHED | changed) != canonical.entry_hash(**HASHED)


def test_domains_keep_equal_rows_apart() -> None:
    domains = [canonical.DECIDED_CLICK_DOMAIN, canonical.DELAYED_DECISION_DOMAIN, canonical.OUTCOME_DOMAIN]
    assert len({canonical.leaves(domain, [b"row"]) for domain in domains}) == len(domains)


@pytest.mark.parametrize(
    "broken",
    [
        {"verdict": "vaild"},
        {"click_id": b"short"},
        {"cost_micros": 2**63},
        {"cost_micros": -1},
        {"source": "nul\x00"},
        {"external_id": "\ud800"},
        {"model_version": 2**31},
        {"seq": 2**63},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_row_that_cannot_be_stored_is_invalid_input_and_leaves_no_trace(
    conn: database.Connection, broken: dict[str, Any]
) -> None:
    good = Row(click_id(at("2024-03-10"), 1))
    bad = Row(**{"click_id": click_id(at("2024-03-10", 1), 2)} | broken)
    with pytest.raises(InvalidInput):
        append.append(conn, batch([good, bad]), actor="tests")
    assert conn.execute("SELECT count(*) FROM clicks").fetchone() == (0,)
    assert log.head(conn).position == 1


def test_uuid_order_of_the_server_is_byte_order(conn: database.Connection) -> None:
    ids = sorted(click_id(at("2024-03-10", n % 3), n) for n in range(50))
    found = conn.execute("SELECT i FROM unnest(%s::uuid[]) i ORDER BY i", ([uuid.UUID(bytes=i) for i in ids],))
    assert [row[0].bytes for row in found] == ids
