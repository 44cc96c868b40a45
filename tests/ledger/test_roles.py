"""Roles of a server: who makes them, who may take them, and what is said to a user that may not."""

from __future__ import annotations

import ast
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from batches import batch, clicks
from psycopg import sql

import clickledger
from clickledger import errors
from clickledger.ledger import append, database, granting, log, schema
from clickledger.ledger.rights import Role


def test_every_connection_of_a_command_takes_a_role() -> None:
    package = Path(clickledger.__file__).parent
    sources = [path for folder in ("scoring", "recovery", "console") for path in (package / folder).glob("*.py")]
    calls = [
        (path.name, {keyword.arg for keyword in node.keywords})
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"database.connect", "database.open_pool"}
    ]
    assert {name for name, _ in calls} >= {"worker.py", "tasks.py", "api.py", "cli_audit.py", "cli_ingest.py"}
    assert [name for name, keywords in calls if "role" not in keywords] == []


def test_role_that_the_user_may_not_take_is_refused_with_what_to_do(
    database_url: str, login: Callable[[str], str]
) -> None:
    stranger = login("LOGIN")
    with pytest.raises(errors.Refused, match="cannot act as clickledger_scorer: expected a migrated"):
        database.connect(as_user(database_url, stranger), role=Role.SCORER)


def test_user_of_one_role_acts_as_that_role_and_as_no_other(database_url: str, login: Callable[[str], str]) -> None:
    scorer = login("LOGIN IN ROLE clickledger_scorer")
    with database.connect(as_user(database_url, scorer), role=Role.SCORER) as conn:
        assert append.append(conn, batch(clicks(3)), actor="tests").new == 3
    with pytest.raises(errors.Refused, match="cannot act as clickledger_replayer"):
        database.connect(as_user(database_url, scorer), role=Role.REPLAYER)


def test_user_that_never_takes_its_role_is_held_to_it_all_the_same(
    database_url: str, login: Callable[[str], str]
) -> None:
    scorer = login("LOGIN IN ROLE clickledger_scorer")
    with database.connect(as_user(database_url, scorer)) as conn:
        assert append.append(conn, batch(clicks(3)), actor="tests").new == 3
        with pytest.raises(errors.Refused, match="may not record an entry of kind rollback_declared"):
            log.record(conn, "rollback_declared", {}, "tests")


@pytest.fixture
def login(servers: Any) -> Iterator[Callable[[str], str]]:
    """Makes users of the server, dropped after the test."""
    made: list[str] = []
    with psycopg.connect(servers.database_url, autocommit=True) as admin:

        def make(options: str) -> str:
            made.append(f"tests_login_{len(made)}")
            admin.execute(f"CREATE ROLE {made[-1]} {options}".encode())
            return made[-1]

        yield make
        for name in made:
            admin.execute(f"DROP ROLE {name}".encode())


def as_user(url: str, user: str) -> str:
    return url.replace("://clickledger@", f"://{user}@")


@pytest.fixture
def empty_database(servers: Any) -> Iterator[Callable[[str], str]]:
    """Makes empty databases that belong to a user."""
    made: list[str] = []
    with psycopg.connect(servers.database_url, autocommit=True) as admin:

        def make(owner: str) -> str:
            made.append(f"roles_{secrets.token_hex(4)}")
            statement = "CREATE DATABASE {} OWNER {}"
            admin.execute(sql.SQL(statement).format(sql.Identifier(made[-1]), sql.Identifier(owner)))
            return as_user(servers.database_url, owner).replace("/clickledger?", f"/{made[-1]}?")

        yield make
        for name in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_user_who_is_no_superuser_migrates_and_acts_as_every_role(
    login: Callable[[str], str], empty_database: Callable[[str], str], servers: Any
) -> None:
    user = login("LOGIN CREATEROLE")
    url = empty_database(user)
    with psycopg.connect(servers.database_url, autocommit=True) as admin:  # the roles are there, made by another
        admin.execute(f"GRANT {', '.join(Role)} TO {user}".encode())
    schema.migrate(url)
    schema.migrate(url)
    for role in Role:
        with database.connect(url, role=role) as conn:
            assert conn.execute("SELECT current_user").fetchone() == (role,)
    with database.connect(url, role=Role.SCORER) as conn:
        assert append.append(conn, batch(clicks(3)), actor="tests").new == 3
    with database.connect(url) as conn:
        assert (granting.differences(conn), granting.unclassified(conn)) == ([], [])


def test_user_who_may_not_take_the_roles_is_told_what_an_administrator_has_to_say(
    login: Callable[[str], str], empty_database: Callable[[str], str]
) -> None:
    user = login("LOGIN")
    url = empty_database(user)
    with pytest.raises(errors.Refused, match=f"an administrator has to say: .*GRANT clickledger_owner TO {user};"):
        schema.migrate(url)
    with database.connect(url) as conn:
        assert conn.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_two_ledgers_of_a_server_share_the_roles(empty_database: Callable[[str], str], database_url: str) -> None:
    url = empty_database("clickledger")
    schema.migrate(url)
    for one in (url, database_url):
        with database.connect(one, role=Role.AUDITOR_READER) as conn:
            assert log.head(conn).position == 1


def test_ledger_that_was_not_migrated_gives_its_roles_nothing(
    empty_database: Callable[[str], str], template_database: str
) -> None:
    with (
        database.connect(empty_database("clickledger"), role=Role.SCORER) as conn,
        pytest.raises(psycopg.errors.UndefinedTable),
    ):
        log.head(conn)
