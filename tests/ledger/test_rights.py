"""Every role may do what `rights` says and nothing else: each statement is tried, as that role, on a lived ledger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from batches import at, batch, click_id, clicks
from psycopg import sql
from replays import model, published

import clickledger
from clickledger import errors
from clickledger.ledger import (
    append,
    checkpoint_keys,
    checkpoints,
    database,
    fold,
    granting,
    log,
    outcomes,
    partitions,
    rights,
    runs,
    signed_note,
)
from clickledger.ledger.rights import RUNTIME, Role

# Said a second time, by hand: what must hold whatever `rights` says.
HISTORY = (
    "log", "leaves", "clicks", "decisions", "delayed_decisions", "outcomes", "conflicts", "artefacts", "comparisons",
    "comparison_totals", "adjustments", "checkpoints",
)  # fmt: skip
WRITTEN_BY_FUNCTIONS = ("log", "leaves", "clicks", "decisions")
READERS = (Role.BILLING_READER, Role.AUDITOR_READER)
PERSONAL = ("clicks", "known_customers", "outcomes", "conflicts")
VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
DENIED = "42501"
REFUSED_BY_TRIGGER = "CL004"
NOT_FOR_VIEWS = ("55000", "42809")  # what nobody can do to a view
REFUSED = (DENIED, *NOT_FOR_VIEWS)


@pytest.fixture(scope="module")
def lived(servers: Any, template_database: str) -> Iterator[database.Connection]:
    """A connection of the administrator to a ledger with rows in every history table; statements are rolled back."""
    name = "rights_matrix"
    admin = psycopg.connect(servers.database_url, autocommit=True)
    admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (name, template_database))))
    with database.connect(servers.database_url.replace("/clickledger?", f"/{name}?")) as conn:
        live(conn)
        yield conn
    admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    admin.close()


def live(conn: database.Connection) -> None:
    rows = clicks(3) + clicks(2, "2024-03-11", start=10)
    append.append(conn, batch(rows), actor="tests")
    append.append(conn, batch(clicks(1, content="other")), actor="tests")
    outcomes.append(conn, [outcomes.Outcome(click_id(at("2024-03-10"), 0), "purchase", 1, 5)], "tests")
    published(conn, 2, 3, {row.click_id: "invalid" for row in rows})
    key = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, key, "tests")
    checkpoints.sign(conn, key, "tests")


def tried(conn: database.Connection, role: str, statement: sql.Composable | str) -> str:
    """'done', or the SQLSTATE with which the statement was refused to the role; its effects are rolled back."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)))
            conn.execute(statement if isinstance(statement, sql.Composable) else statement.encode())
    except (psycopg.Error, errors.ClickledgerError) as error:
        return str(getattr(error.__cause__ or error, "sqlstate", error))
    return "done"


def columns_of(conn: database.Connection, relation: str) -> list[str]:
    query = """SELECT attname FROM pg_attribute
               WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""
    return [row[0] for row in conn.execute(query, (relation,))]


def statement_of(verb: str, relation: str, column: str) -> sql.Composable:
    """A statement that needs one privilege and, where it may, changes something or finds nothing to change."""
    text = {
        "SELECT": "SELECT {column} FROM {relation} LIMIT 1",
        "INSERT": "INSERT INTO {relation} SELECT (NULL::{relation}).* WHERE false",
        "UPDATE": "UPDATE {relation} SET {column} = DEFAULT WHERE false",
        "DELETE": "DELETE FROM {relation} WHERE false",
        "TRUNCATE": "TRUNCATE {relation} CASCADE",
    }[verb]
    return sql.SQL(text).format(relation=sql.Identifier(relation), column=sql.Identifier(column))


def leaf_partitions(conn: database.Connection) -> list[str]:
    query = """SELECT i.inhrelid::regclass::text FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
               WHERE p.relkind = 'p' ORDER BY 1"""
    return [row[0] for row in conn.execute(query)]


def stated(role: Role, verb: str, relation: str, column: str) -> bool:
    """What `rights` says of it."""
    wanted = rights.RELATIONS[relation]
    match verb:
        case "SELECT":
            return role in wanted.select
        case "INSERT":
            return role in wanted.insert
        case "UPDATE":
            return column in wanted.update.get(role, ())
    return False


@pytest.mark.parametrize("role", RUNTIME)
def test_role_may_do_to_each_relation_what_is_stated_and_nothing_else(lived: database.Connection, role: Role) -> None:
    found, wanted = {}, {}
    for relation in rights.RELATIONS:
        for column in columns_of(lived, relation):
            for verb in VERBS:
                case = (verb, relation, column)
                found[case] = tried(lived, role, statement_of(*case)) not in REFUSED
                wanted[case] = stated(role, *case)
    assert {case for case in found if found[case] is not wanted[case]} == set()


@pytest.mark.parametrize("role", RUNTIME)
def test_role_has_no_way_to_a_leaf_partition_past_its_parent(lived: database.Connection, role: Role) -> None:
    partitions_ = leaf_partitions(lived)
    assert len(partitions_) == 9  # two days and the undated one, of three tables
    for leaf in partitions_:
        outcomes_ = {verb: tried(lived, role, statement_of(verb, leaf, "click_id")) for verb in VERBS}
        assert set(outcomes_.values()) == {DENIED}, (leaf, outcomes_)


def test_no_role_changes_history_whatever_is_stated(lived: database.Connection) -> None:
    for role in RUNTIME:
        for relation in [*HISTORY, *leaf_partitions(lived)]:
            for column in columns_of(lived, relation):
                for verb in ("UPDATE", "DELETE", "TRUNCATE"):
                    assert tried(lived, role, statement_of(verb, relation, column)) == DENIED, (role, verb, relation)


def test_owner_is_refused_by_triggers_what_roles_are_refused_by_grants(lived: database.Connection) -> None:
    for relation in [*HISTORY, *leaf_partitions(lived)]:
        if not lived.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(relation))).fetchone():
            continue
        column = columns_of(lived, relation)[0]
        for text in ("UPDATE {r} SET {c} = {c}", "DELETE FROM {r}", "TRUNCATE {r} CASCADE"):
            statement = sql.SQL(text).format(r=sql.Identifier(relation), c=sql.Identifier(column))
            assert tried(lived, Role.OWNER, statement) == REFUSED_BY_TRIGGER, (text, relation)


def test_nobody_but_functions_writes_the_log_and_what_was_decided(lived: database.Connection) -> None:
    for role in RUNTIME:
        for relation in WRITTEN_BY_FUNCTIONS:
            assert tried(lived, role, statement_of("INSERT", relation, "")) == DENIED


def test_readers_write_nothing_at_all(lived: database.Connection) -> None:
    for role in READERS:
        for relation in rights.RELATIONS:
            for column in columns_of(lived, relation):
                for verb in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                    assert tried(lived, role, statement_of(verb, relation, column)) in REFUSED
        assert tried(lived, role, "SELECT take_log_lock()") == DENIED


def test_billing_reads_nothing_personal(lived: database.Connection) -> None:
    for relation in PERSONAL:
        column = columns_of(lived, relation)[0]
        assert tried(lived, Role.BILLING_READER, statement_of("SELECT", relation, column)) == DENIED


def test_role_cannot_disable_a_trigger_change_a_table_or_make_one(lived: database.Connection) -> None:
    statements = (
        "ALTER TABLE log DISABLE TRIGGER ALL",
        "ALTER TABLE clicks DETACH PARTITION clicks_undated",
        "DROP TABLE shadow_scores",
        "CREATE TABLE mine (one int)",
        "CREATE OR REPLACE FUNCTION click_time_ms(click_id uuid) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        "SET session_replication_role = replica",
    )
    for role in RUNTIME:
        for statement in statements:
            assert tried(lived, role, statement) == DENIED, (role, statement)


def test_role_may_call_the_functions_that_are_stated_and_no_others(lived: database.Connection) -> None:
    query = """SELECT p.proname, r, has_function_privilege(r, p.oid, 'EXECUTE')
               FROM pg_proc p CROSS JOIN unnest(%s::text[]) r WHERE p.pronamespace = 'public'::regnamespace"""
    found = {(name, role) for name, role, may in lived.execute(query, (list(RUNTIME),)) if may}
    assert found == {(grant.name, grant.role) for grant in rights.function_grants()}


@pytest.mark.parametrize("role", RUNTIME)
def test_calling_a_function_that_is_not_granted_is_refused(lived: database.Connection, role: Role) -> None:
    calls = {
        "write_entry": "SELECT write_entry('x', 'x', '', '{}', 0, sha256(''))",
        "append_batch": "SELECT append_batch('x', 0, 1, 1, '{}'::decided_click[], '', false)",
        "record_entry": "SELECT record_entry('no such kind', 'x', '', '{}', '')",
        "ensure_day": "SELECT ensure_day('2031-01-01')",
        "attach_partition": "SELECT attach_partition('clicks', 'x', 'MINVALUE', 'MAXVALUE')",
        "make_history": "SELECT make_history('shadow_scores')",
        "summarise_block_ranges": "SELECT summarise_block_ranges()",
        "decision_of": "SELECT decision_of(gen_random_uuid())",
        "authoritative_decisions_as_of": "SELECT count(*) FROM authoritative_decisions_as_of(1)",
    }
    for name, call in calls.items():
        if role not in rights.FUNCTIONS[name].execute:
            assert tried(lived, role, call) == DENIED, (role, name)


def test_functions_that_act_as_the_owner_search_nothing_a_caller_could_fill(lived: database.Connection) -> None:
    query = """SELECT proname, proconfig FROM pg_proc
               WHERE pronamespace = 'public'::regnamespace AND prosecdef"""
    found = dict(lived.execute(query).fetchall())
    assert found.keys() == {name for name, function in rights.FUNCTIONS.items() if function.as_owner}
    assert all("search_path=public, pg_temp" in settings for settings in found.values())


@pytest.mark.parametrize("role", RUNTIME)
def test_role_records_the_kinds_of_entries_that_are_stated_and_no_others(
    lived: database.Connection, role: Role
) -> None:
    for kind in [*rights.ENTRIES, "clicks_decided", "unheard_of"]:
        may = role in rights.ENTRIES.get(kind, ())
        call = sql.SQL("SELECT record_entry({}, 'tests', '', '{{}}', '')").format(sql.Literal(kind))
        assert tried(lived, role, call) == ("done" if may else DENIED), (role, kind)


def test_every_relation_function_and_type_of_the_schema_is_named_in_rights(lived: database.Connection) -> None:
    assert granting.unclassified(lived) == []


def test_every_kind_of_entry_is_named_in_rights() -> None:
    package = Path(clickledger.__file__).parent
    sources = [path.read_text() for path in package.glob("*/*.py")]
    written = {kind for text in sources for kind in re.findall(r"\brecord\(\s*(?:[\w.]*conn,\s*)?\"(\w+)\"", text)}
    assert {"replay_published", "outcomes_recorded", "counters_restored"} <= written
    by_the_owner = {"ledger_created", "clicks_decided"}
    by_the_owner |= {"legal_hold_set", "legal_hold_released", "day_detached", "day_dropped"}
    assert (written | set(fold.KINDS)) - by_the_owner == rights.ENTRIES.keys()


def test_migrated_ledger_has_the_rights_that_are_stated(lived: database.Connection) -> None:
    assert granting.differences(lived) == []


def test_stray_grants_owners_and_functions_are_put_right(conn: database.Connection) -> None:
    for statement in (
        "GRANT UPDATE ON log TO clickledger_scorer",
        "GRANT UPDATE (payload) ON log TO PUBLIC",
        "GRANT EXECUTE ON FUNCTION write_entry TO PUBLIC",
        "REVOKE SELECT ON clicks FROM clickledger_scorer",
        "ALTER TABLE decisions_undated OWNER TO CURRENT_USER",
        "ALTER FUNCTION record_entry SECURITY INVOKER",
        "ALTER FUNCTION append_batch SET search_path = pg_temp, public",
        "INSERT INTO entry_rights VALUES ('rollback_declared', 'clickledger_scorer')",
    ):
        conn.execute(statement.encode())
        assert granting.differences(conn) != [], statement
        granting.apply(conn)
        assert granting.differences(conn) == [], statement


def test_grants_of_the_administrator_to_others_stay(conn: database.Connection) -> None:
    conn.execute("GRANT SELECT ON log TO pg_monitor")
    granting.apply(conn)
    assert conn.execute("SELECT has_table_privilege('pg_monitor', 'log', 'SELECT')").fetchone() == (True,)


def test_new_day_belongs_to_the_owner_and_is_closed_to_direct_rows(database_url: str) -> None:
    with database.connect(database_url, role=Role.SCORER) as conn:
        assert partitions.ensure(conn, [20_000]) == 1
        query = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname LIKE '%%\\_20241004'"
        assert {row[0] for row in conn.execute(query)} == {Role.OWNER}
    with database.connect(database_url) as admin:
        assert granting.differences(admin) == []


def test_rows_of_a_frozen_run_cannot_come_in_through_a_leaf(conn: database.Connection, database_url: str) -> None:
    append.append(conn, batch(clicks(2)), actor="tests")
    version, calibration = model(conn)
    run = runs.plan(conn, 2, 3, model_version=version, calibration_version=calibration, actor="tests", reason="test")
    row = """INSERT INTO {table} SELECT d.*, %s FROM decisions d WHERE d.click_id = %s"""
    first, second = (click.uuid for click in clicks(2))
    with database.connect(database_url, role=Role.REPLAYER) as replayer:
        replayer.execute(row.format(table="delayed_decisions").encode(), (run.run_id, first))
        runs.abandon(replayer, run.run_id, "tests", "no rows from here on")
        with pytest.raises(errors.Conflict, match="takes no more decisions"):
            replayer.execute(row.format(table="delayed_decisions").encode(), (run.run_id, second))
        with pytest.raises(errors.Refused, match="permission denied"):
            replayer.execute(row.format(table="delayed_decisions_20240310").encode(), (run.run_id, second))


def test_scorer_appends_through_the_fenced_function_only(database_url: str) -> None:
    with database.connect(database_url, role=Role.SCORER) as conn:
        assert append.append(conn, batch(clicks(3)), actor="tests").new == 3
        assert append.append(conn, batch(clicks(1, content="other")), actor="tests").outcome == ["conflict"]
        with pytest.raises(errors.RevokedDeployment):
            append.append(conn, batch(clicks(1, start=9), epoch=7), actor="tests")
        with pytest.raises(errors.Refused, match="may not record an entry of kind rollback_declared"):
            log.record(conn, "rollback_declared", {}, "tests")
