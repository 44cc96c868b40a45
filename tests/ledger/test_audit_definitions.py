"""What the migrations made is what is there: an owner who replaces a view, a function or a trigger is found out.

After a migration that changes any of them: `make record-definitions`, once for each version of PostgreSQL whose text of
views is recorded (PG15=... for 15), then look at what changed.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from clickledger.ledger import audit, audit_definitions, database, partitions

NAME = "definitions"


def found(conn: database.Connection) -> list[str]:
    return audit.verify(conn).failures[NAME]


def test_the_recorded_definitions_are_those_of_the_migrations(conn: database.Connection) -> None:
    made = audit_definitions.record(conn)
    if os.environ.get("CLICKLEDGER_RECORD_DEFINITIONS"):
        text = json.dumps(made._asdict(), indent=1, sort_keys=True) + "\n"
        audit_definitions.RECORDED.write_text(text, encoding="utf-8")
    assert made == audit_definitions.recorded()
    partitions.ensure(conn, [19_900, 19_901])
    report = audit.verify(conn)
    assert report.failures[NAME] == []
    assert not [note for note in report.notes if note.startswith("views: ")]


TAMPERED: dict[str, tuple[str, str]] = {
    "view": (
        "CREATE OR REPLACE VIEW departed_money AS SELECT * FROM ({departed_money}) d LIMIT 1",
        "view departed_money: it is not the one",
    ),
    "view dropped": ("DROP VIEW billing_entries", "view billing_entries: expected that of this release, got none"),
    "function": (
        "CREATE OR REPLACE FUNCTION click_time_ms(click_id uuid) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        "function click_time_ms(click_id uuid): it is not the one",
    ),
    "function as its caller": (
        "ALTER FUNCTION record_entry(text, text, text, text, bytea) SECURITY INVOKER",
        "function record_entry(",
    ),
    "function without its path": ("ALTER FUNCTION ensure_day(date) RESET search_path", "function ensure_day("),
    "function beside": (
        "CREATE FUNCTION decision_of(text) RETURNS SETOF authoritative_decisions LANGUAGE sql AS"
        " 'SELECT * FROM authoritative_decisions LIMIT 0'",
        "function decision_of(text): nothing of this release",
    ),
    "trigger dropped": ("DROP TRIGGER refuse_change ON log", "trigger refuse_change on log: expected that"),
    "trigger disabled": (
        "ALTER TABLE leaves DISABLE TRIGGER refuse_truncate",
        "trigger refuse_truncate on leaves: it is not the one",
    ),
    "trigger of a day disabled": (
        "ALTER TABLE decisions_20240626 DISABLE TRIGGER refuse_change",
        "trigger refuse_change on decisions_20240626: it is not the one",
    ),
    "trigger of a day dropped": (
        "DROP TRIGGER refuse_truncate ON clicks_20240626",
        "trigger refuse_truncate on clicks_20240626: expected that",
    ),
    "trigger added": (
        "CREATE TRIGGER quiet BEFORE INSERT ON outcomes FOR EACH ROW EXECUTE FUNCTION refuse_change()",
        "trigger quiet on outcomes: nothing of this release",
    ),
    "trigger that asks less": (
        "DROP TRIGGER refuse_backtest ON authority; CREATE TRIGGER refuse_backtest BEFORE INSERT ON authority"
        " FOR EACH ROW WHEN (NEW.run_id < 0) EXECUTE FUNCTION refuse_backtest()",
        "trigger refuse_backtest on authority: it is not the one",
    ),
    "view for a table": (
        "ALTER TABLE billing_periods RENAME TO periods;"
        " CREATE VIEW billing_periods AS SELECT * FROM periods WHERE current_user <> 'clickledger_replayer'",
        "table billing_periods: expected that of this release, got none",
    ),
    "keys disabled": ("ALTER TABLE replay_chunks DISABLE TRIGGER ALL", "trigger of a key on replay_chunks"),
    "rule": ("CREATE RULE quiet AS ON INSERT TO outcomes DO INSTEAD NOTHING", "rule quiet on outcomes: nothing"),
    "policy": ("CREATE POLICY blind ON outcomes USING (false)", "policy blind on outcomes: nothing of this release"),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_what_an_owner_replaces_is_named(conn: database.Connection, how: str) -> None:
    partitions.ensure(conn, [19_900])  # 2024-06-26
    statement, line = TAMPERED[how]
    of: Any = conn.execute("SELECT rtrim(pg_get_viewdef('departed_money'), ';')").fetchone()
    conn.execute(statement.format(departed_money=of[0]).encode())
    assert [line_ for line_ in found(conn) if line_.startswith(line)] != []


def test_what_a_site_adds_beside_and_tunes_is_its_own_matter(conn: database.Connection) -> None:
    conn.execute("CREATE TABLE notes (text text)")
    conn.execute("CREATE VIEW monthly AS SELECT count(*) FROM billing_entries")
    conn.execute("CREATE FUNCTION yesterday() RETURNS date LANGUAGE sql AS 'SELECT current_date - 1'")
    conn.execute("ALTER FUNCTION decision_of(uuid) RESET plan_cache_mode")
    assert found(conn) == []
