"""Checkpoints: what was signed is what the log holds, and a log that was cut or rewritten is found out."""

from __future__ import annotations

import time
from typing import Any

import batches
import pytest
from growing import grow

from clickledger import errors
from clickledger.ledger import (
    append,
    audit,
    canonical,
    checkpoint_keys,
    checkpoints,
    database,
    log,
    merkle,
    merkle_tiles,
    rebuild,
    signed_note,
)
from clickledger.ledger.rights import Role
from clickledger.ledger.signed_note import SigningKey

WIDTH = merkle_tiles.TILE_WIDTH
# What an owner who means harm can do: change an entry, then make every chain hash after it follow.
REWRITE = """
    DO $$
    DECLARE
        v_entry log;
        v_before bytea;
    BEGIN
        SET LOCAL session_replication_role = replica;
        UPDATE log SET reason = 'rewritten' WHERE position = %(at)d;
        SELECT chain_hash INTO v_before FROM log WHERE position = %(at)d - 1;
        FOR v_entry IN SELECT * FROM log WHERE position >= %(at)d ORDER BY position LOOP
            v_before := sha256(
                'clickledger:entry:1'::bytea || int8send(v_entry.position)
                || length_prefixed(convert_to(v_entry.kind, 'UTF8'))
                || int8send((extract(epoch FROM v_entry.recorded_at) * 1000)::bigint)
                || length_prefixed(convert_to(v_entry.actor, 'UTF8'))
                || length_prefixed(convert_to(v_entry.reason, 'UTF8'))
                || length_prefixed(convert_to(v_entry.payload, 'UTF8'))
                || int8send(v_entry.row_count) || length_prefixed(v_entry.content_digest) || v_before);
            UPDATE log SET chain_hash = v_before WHERE position = v_entry.position;
        END LOOP;
    END $$"""


@pytest.fixture
def key(conn: database.Connection) -> SigningKey:
    """The key of the test's ledger, recorded."""
    made = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, made, "tests")
    return made


@pytest.mark.parametrize(("level", "number"), [(1, 1), (1, 2), (1, 999), (2, 0)])
def test_tiles_that_somebody_made_up_are_not_signed(
    conn: database.Connection, database_url: str, key: SigningKey, level: int, number: int
) -> None:
    grow(conn, WIDTH + 44)
    assert checkpoints.sign(conn, key, "tests").size == WIDTH + 44
    with database.connect(database_url, role=Role.REPLAYER) as replayer:
        replayer.execute("INSERT INTO merkle_tiles VALUES (%s, %s, sha256('forged'))", (level, number))
    grow(conn, 3 * WIDTH)
    if (level, number) in {(1, 1), (1, 2)}:
        with pytest.raises(errors.VerificationFailed, match=rf"merkle tile {level}/{number}: .* --rebuild-tiles"):
            checkpoints.sign(conn, key, "tests")
        merkle_tiles.rebuild(conn, log.head(conn).position)
    signed = checkpoints.sign(conn, key, "tests")
    assert signed.root == naive_root(conn, signed.size)


def test_checks_that_take_long_between_two_statements_are_not_ended_by_the_server(
    conn: database.Connection, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(conn, 3)
    checkpoints.sign(conn, key, "tests")
    for module, name in ((checkpoints, "_row_problems"), (rebuild, "fold")):
        within = getattr(module, name)

        def slowly(*asked: Any, within: Any = within) -> Any:
            time.sleep(1.5)
            return within(*asked)

        monkeypatch.setattr(module, name, slowly)
    conn.execute("SET idle_in_transaction_session_timeout = '1s'")
    report = audit.verify(conn)
    assert report.ok, report.failures


def forge(conn: database.Connection, statement: str) -> None:
    """Do as an owner who means harm: triggers off, change, triggers on."""
    conn.execute("SET session_replication_role = replica")
    conn.execute(statement)
    conn.execute("SET session_replication_role = origin")


def naive_root(conn: database.Connection, size: int) -> bytes:
    leaves = [b"clickledger:entry-leaf:1" + entry.chain_hash for entry in log.read(conn, limit=size)]
    return merkle.root_of([merkle.leaf_hash(leaf) for leaf in leaves])


@pytest.mark.parametrize("size", [2, WIDTH - 1, WIDTH, WIDTH + 1, 3 * WIDTH + 77])
def test_a_checkpoint_is_the_root_over_every_entry(conn: database.Connection, key: SigningKey, size: int) -> None:
    grow(conn, size)
    signed = checkpoints.sign(conn, key, "tests")
    assert (signed.size, signed.root) == (size, naive_root(conn, size))
    text = signed_note.open_note(signed.note, [key.verifier]).text
    assert text == checkpoints.body(checkpoint_keys.origin(conn), size, signed.root)
    assert checkpoints.newest(conn) == checkpoints.parse(signed.note) == signed
    assert checkpoints.verify(conn) == []


def test_a_log_that_did_not_grow_needs_no_other_checkpoint(conn: database.Connection, key: SigningKey) -> None:
    first, head = checkpoints.sign(conn, key, "tests"), log.head(conn)
    for _ in range(3):
        assert checkpoints.sign(conn, key, "tests") == first
    assert log.head(conn) == head
    position = append.append(conn, batches.batch(batches.clicks(3)), actor="tests").position
    assert checkpoints.sign(conn, key, "tests").size == position == first.size + 2  # its entry is covered as well
    assert conn.execute("SELECT count(*) FROM checkpoints").fetchone() == (2,)


def test_trees_read_by_tiles_prove_what_trees_in_memory_prove(conn: database.Connection, key: SigningKey) -> None:
    size = 2 * WIDTH + 9
    grow(conn, size)
    merkle_tiles.extend(conn, size)
    tree = merkle_tiles.Tree(conn)
    leaves = [merkle.leaf_hash(canonical.entry_leaf(entry.chain_hash)) for entry in log.read(conn)]
    for position in (1, WIDTH, WIDTH + 1, size):
        path = tree.inclusion_proof(position, size)
        assert merkle.verify_inclusion(leaves[position - 1], position - 1, size, path, tree.root(size))
        proof = tree.consistency_proof(position, size)
        assert merkle.verify_consistency(position, size, proof, tree.root(position), tree.root(size))


def test_tiles_of_every_level_are_the_roots_of_their_entries(
    conn: database.Connection, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TILE_HEIGHT", 2), ("TILE_WIDTH", 4), ("ENTRIES_PER_STEP", 8)):
        monkeypatch.setattr(merkle_tiles, name, value)  # three levels with few entries
    for size in (7, 62, 64, 131):
        grow(conn, size)
        assert checkpoints.sign(conn, key, "tests").root == naive_root(conn, size)
    assert {level for level, _ in merkle_tiles.stored(conn)} == {1, 2, 3}
    assert merkle_tiles.walk(conn, 131, []).tiles == merkle_tiles.stored(conn)
    assert checkpoints.verify(conn) == []


def test_deleted_tiles_come_back(conn: database.Connection, key: SigningKey) -> None:
    grow(conn, 5 * WIDTH)
    checkpoints.sign(conn, key, "tests")
    before = merkle_tiles.stored(conn)
    conn.execute("DELETE FROM merkle_tiles WHERE number = 2")
    grow(conn, 5 * WIDTH + 2)
    assert checkpoints.sign(conn, key, "tests").root == naive_root(conn, 5 * WIDTH + 2)
    assert merkle_tiles.stored(conn) == before
    merkle_tiles.rebuild(conn, 5 * WIDTH)
    assert merkle_tiles.stored(conn) == before


def test_nothing_is_signed_with_a_key_that_is_not_in_force(conn: database.Connection) -> None:
    stranger = signed_note.generate(checkpoint_keys.origin(conn))
    with pytest.raises(errors.Conflict, match="no key was recorded"):
        checkpoints.sign(conn, stranger, "tests")
    checkpoint_keys.announce(conn, signed_note.generate(checkpoint_keys.origin(conn)), "tests")
    with pytest.raises(errors.Conflict, match=r"expected clickledger/.*, got clickledger/"):
        checkpoints.sign(conn, stranger, "tests")
    with pytest.raises(errors.Conflict, match="expected a ledger without key"):
        checkpoint_keys.announce(conn, stranger, "tests")


def test_the_key_of_another_ledger_is_refused(conn: database.Connection) -> None:
    with pytest.raises(errors.InvalidInput, match="expected one of clickledger/"):
        checkpoint_keys.announce(conn, signed_note.generate("clickledger/another"), "tests")


def test_a_rotated_key_signs_no_more_and_what_it_signed_holds(conn: database.Connection, key: SigningKey) -> None:
    before = checkpoints.sign(conn, key, "tests")
    new = signed_note.generate(key.name)
    entry = checkpoint_keys.rotate(conn, key, new, "tests", "yearly")
    with pytest.raises(errors.Conflict):
        checkpoints.sign(conn, key, "tests")
    after = checkpoints.sign(conn, new, "tests")
    assert (before.size, after.size) == (entry.position - 2, entry.position)
    [first, second] = checkpoint_keys.history(conn)
    assert (first.verifier, second.verifier, second.previous) == (key.verifier, new.verifier, key.verifier)
    assert set(signed_note.open_note(second.statement, [key.verifier, new.verifier]).by) == {
        key.verifier,
        new.verifier,
    }
    assert checkpoints.verify(conn) == []


def test_a_lost_key_is_replaced_on_the_word_of_the_log_alone(conn: database.Connection, key: SigningKey) -> None:
    new = signed_note.generate(key.name)
    checkpoint_keys.rotate(conn, None, new, "tests", "the disk with the key died")
    with pytest.raises(errors.VerificationFailed, match="known key"):
        signed_note.open_note(checkpoint_keys.history(conn)[-1].statement, [key.verifier])
    with pytest.raises(errors.Conflict, match="expected the key in force"):
        checkpoint_keys.rotate(conn, key, signed_note.generate(key.name), "tests")
    checkpoints.sign(conn, new, "tests")
    assert checkpoints.verify(conn) == []


def test_checkpoints_are_history(conn: database.Connection, key: SigningKey) -> None:
    checkpoints.sign(conn, key, "tests")
    for statement in ("UPDATE checkpoints SET size = 1", "DELETE FROM checkpoints", "TRUNCATE checkpoints"):
        with pytest.raises(errors.Refused, match="history is never changed"):
            conn.execute(statement)


# What an owner does to a ledger of 600 entries with checkpoints over 2, 300 and 600; what must be said of it.
FORGERIES = {
    "newest entries cut off": ("DELETE FROM log WHERE position > 590", "entries 591 to 600 are missing"),
    "an entry taken out": ("DELETE FROM log WHERE position = 17", "entry 17: missing"),
    "history rewritten with its chain": (REWRITE % {"at": 280}, "one of 3 to 300"),
    "history rewritten within a tile": (REWRITE % {"at": 40}, "entries 1 to 256 give another"),
    "rewritten, tiles made to follow": (REWRITE % {"at": 280} + "; DELETE FROM merkle_tiles", "one of 3 to 300"),
    "a chain hash": ("UPDATE log SET chain_hash = sha256('x') WHERE position = 600", "one of 301 to 600"),
    "root of a checkpoint": ("UPDATE checkpoints SET root = sha256('x') WHERE size = 300", "its row says otherwise"),
    "note of a checkpoint": (
        "UPDATE checkpoints SET note = replace(note, chr(10) || '300' || chr(10), chr(10) || '299' || chr(10)) "
        "WHERE size = 300",
        "does not hold",
    ),
    "time of a checkpoint": (
        "UPDATE checkpoints SET signed_at = signed_at - interval '1 microsecond' WHERE size = 2",
        "checkpoint over 2 entries: its row has another signed_at_us than entry 3 recorded",
    ),
    "a checkpoint removed": (
        "DELETE FROM checkpoints WHERE size = 300",
        "checkpoint over 300 entries: signed by entry 301, its row is missing",
    ),
    "the newest checkpoint removed": (
        "DELETE FROM checkpoints WHERE size = 600",
        "checkpoint over 600 entries: signed by entry 601, its row is missing",
    ),
    "the entry of the newest checkpoint removed": (
        "DELETE FROM log WHERE position = 601",
        "checkpoint over 600 entries: expected an entry that says what its row does, got none",
    ),
    "checkpoint of another key": ("UPDATE log SET payload = '{}' WHERE kind = 'checkpoint_key_set'", "names no key"),
    "a tile removed": ("DELETE FROM merkle_tiles WHERE number = 0", "merkle tile 1/0: missing"),
    "a tile that no entries fill": (
        "INSERT INTO merkle_tiles SELECT 1, 2, root FROM merkle_tiles WHERE number = 0",
        "merkle tile 1/2: expected none",
    ),
    "a tile": ("UPDATE merkle_tiles SET root = sha256('x') WHERE number = 1", "entries 257 to 512 give another hash"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_was_cut_or_rewritten_is_found_and_named(conn: database.Connection, key: SigningKey, name: str) -> None:
    for size in (2, 300, 600):
        grow(conn, size)
        checkpoints.sign(conn, key, "tests")
    statement, named = FORGERIES[name]
    forge(conn, statement)
    failures = audit.verify(conn).failures["checkpoints"]
    assert any(named in line for line in failures), failures


def test_nothing_is_signed_over_a_log_that_was_cut(conn: database.Connection, key: SigningKey) -> None:
    grow(conn, 20)
    checkpoints.sign(conn, key, "tests")
    forge(conn, "DELETE FROM log WHERE position > 18")
    with pytest.raises(errors.VerificationFailed, match="entries 19 to 20 are missing"):
        checkpoints.sign(conn, key, "tests")


def test_nothing_is_signed_over_a_log_that_was_rewritten(conn: database.Connection, key: SigningKey) -> None:
    grow(conn, 20)
    checkpoints.sign(conn, key, "tests")
    forge(conn, REWRITE % {"at": 11})
    grow(conn, 22)
    with pytest.raises(errors.VerificationFailed, match="the log gives another one"):
        checkpoints.sign(conn, key, "tests")


def test_a_checkpoint_held_outside_finds_what_the_ledger_forgot(conn: database.Connection, key: SigningKey) -> None:
    grow(conn, 30)
    held = checkpoints.sign(conn, key, "tests").note
    grow(conn, 40)
    assert checkpoints.check_held(conn, held) == []
    forge(conn, "DELETE FROM checkpoints")
    assert checkpoints.check_held(conn, held) == []
    assert checkpoints.verify(conn) == ["checkpoint over 30 entries: signed by entry 31, its row is missing"]
    forge(conn, "DELETE FROM log WHERE position > 25")
    [failure] = checkpoints.check_held(conn, held)
    assert "the log ends at 25, entries 26 to 30 are missing" in failure
    assert checkpoints.verify(conn) == []  # the ledger itself knows no better


def test_a_checkpoint_held_outside_finds_a_rewritten_log(conn: database.Connection, key: SigningKey) -> None:
    grow(conn, 10)
    checkpoints.sign(conn, key, "tests")
    grow(conn, 30)
    held = checkpoints.sign(conn, key, "tests").note
    forge(conn, "DELETE FROM checkpoints WHERE size = 30")
    forge(conn, REWRITE % {"at": 29})
    [failure] = checkpoints.check_held(conn, held)
    assert "one of 11 to 30" in failure


def test_a_held_checkpoint_must_be_of_this_ledger_and_signed_by_its_key(
    conn: database.Connection, key: SigningKey
) -> None:
    signed = checkpoints.sign(conn, key, "tests")
    other = signed_note.generate("clickledger/other")
    elsewhere = signed_note.sign(checkpoints.body("clickledger/other", 1, signed.root), other)
    assert "got one of clickledger/other" in checkpoints.check_held(conn, elsewhere)[0]
    impostor = signed_note.generate(key.name)
    forged = signed_note.sign(checkpoints.body(key.name, signed.size, signed.root), impostor)
    assert "expected the signature of a known key" in checkpoints.check_held(conn, forged)[0]
    with pytest.raises(errors.InvalidInput, match="expected text, a blank line"):
        checkpoints.check_held(conn, "nonsense")


@pytest.mark.parametrize("text", ["o\n1\n", "o\n01\n{r}\n", "o\n0\n{r}\n", "o\n1\n{r}\nmore\n", "o\n1\nAAAA\n", "\n"])
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    note = signed_note.sign(text.format(r="A" * 43 + "="), signed_note.generate("o"))
    with pytest.raises(errors.InvalidInput, match="expected origin, size and"):
        checkpoints.parse(note)
