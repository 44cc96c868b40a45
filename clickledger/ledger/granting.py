"""Bringing a database to the rights that `rights` states: roles, owners, SECURITY DEFINER, grants.

`schema.migrate` calls it after every migration. It compares what is with what is to be and changes only that: where
nothing is to be done it costs one look and takes no lock that appends would wait for.

Grants to anybody but our roles and PUBLIC are the administrator's and stay. Objects that `rights` does not name are
left alone: they belong to who made them, and nobody else may use them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import psycopg

from clickledger import errors
from clickledger.ledger import database, rights
from clickledger.ledger.rights import Grant, Role

ATTEMPTS = 20
PUBLIC = "PUBLIC"
_OURS = "to_regnamespace(quote_ident(current_schema()))"
# Tables, views and sequences, none of extensions, by the name they are known by: a partition's is that of its root.
SELECT_RELATIONS = f"""
    SELECT coalesce(r.relname, c.relname), c.oid::regclass::text, c.relispartition, pg_get_userbyid(c.relowner)
    FROM pg_class c LEFT JOIN pg_class r ON c.relispartition AND r.oid = pg_partition_root(c.oid)
    WHERE c.relnamespace = {_OURS} AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 2"""
SELECT_FUNCTIONS = f"""
    SELECT p.proname, p.oid::regprocedure::text, pg_get_userbyid(p.proowner), p.prosecdef,
           (SELECT substr(s, 13) FROM unnest(p.proconfig) s WHERE s LIKE 'search\\_path=%%')
    FROM pg_proc p
    WHERE p.pronamespace = {_OURS}
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    ORDER BY 2"""
SELECT_TYPES = f"""
    SELECT t.typname, t.oid::regtype::text, pg_get_userbyid(t.typowner)
    FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace = {_OURS} AND (t.typtype IN ('e', 'd', 'r') OR (t.typtype = 'c' AND c.relkind = 'c'))
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
    ORDER BY 2"""
# Privileges as they are, by quoted name, of everybody but the object's owner.
SELECT_RELATION_GRANTS = f"""
    SELECT c.oid::regclass::text, NULL, a.privilege_type, coalesce(g.rolname, '{PUBLIC}')
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
    WHERE c.relnamespace = {_OURS} AND a.grantee <> c.relowner
    UNION ALL
    SELECT c.oid::regclass::text, t.attname, a.privilege_type, coalesce(g.rolname, '{PUBLIC}')
    FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) a
    LEFT JOIN pg_roles g ON g.oid = a.grantee
    WHERE c.relnamespace = {_OURS} AND a.grantee <> c.relowner"""
SELECT_FUNCTION_GRANTS = f"""
    SELECT p.oid::regprocedure::text, NULL, a.privilege_type, coalesce(g.rolname, '{PUBLIC}')
    FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    LEFT JOIN pg_roles g ON g.oid = a.grantee
    WHERE p.pronamespace = {_OURS} AND a.grantee <> p.proowner"""
SELECT_SCHEMA = """
    SELECT quote_ident(n.nspname),
           ARRAY(SELECT r FROM unnest(%(roles)s::text[]) r WHERE NOT has_schema_privilege(r, n.oid, 'USAGE')),
           has_schema_privilege(%(owner)s, n.oid, 'CREATE'),
           EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')
    FROM pg_namespace n WHERE n.nspname = current_schema()"""


def make_roles(conn: database.Connection) -> None:
    """Create the roles that the server lacks, and let the current user act as each of them.

    Raises Refused with the statements for an administrator where the user may do neither.
    """
    for attempt in range(ATTEMPTS):
        try:
            for statement in _role_statements(conn):
                conn.execute(statement.encode())
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation, psycopg.errors.InternalError):
            time.sleep(0.05 * attempt)  # another database of this server is migrated at this moment: look again
        except errors.Refused as error:
            wanted = "; ".join(_role_statements(conn))
            raise errors.Refused(f"{error}: an administrator has to say: {wanted}") from error
        else:
            return
    raise errors.Unavailable(f"expected the roles of clickledger to be made within {ATTEMPTS} attempts")


def _role_statements(conn: database.Connection) -> list[str]:
    known = {row[0] for row in conn.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", (list(Role),))}
    missing = [role for role in Role if role not in known]
    # Since PostgreSQL 16 who makes a role is a member of it who may hand it on but not take it.
    how = "SET" if conn.info.server_version >= 160000 else "MEMBER"
    query = "SELECT quote_ident(current_user), r FROM unnest(%s::text[]) r WHERE NOT pg_has_role(r::name, %s)"
    lacking = conn.execute(query, ([role for role in Role if role in known], how)).fetchall()
    user = str((conn.execute("SELECT quote_ident(current_user)").fetchone() or ("",))[0])
    superuser = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (True,)
    taken = [] if superuser else [*missing, *(role for _, role in lacking)]
    return [f"CREATE ROLE {role} NOLOGIN" for role in missing] + [f"GRANT {role} TO {user}" for role in taken]


def apply(conn: database.Connection) -> None:
    """Make the rights of the database those of `rights`; nothing happens where they are.

    Statement by statement, since a ledger of a year has more partitions than one transaction may hold locks. In
    between, the user who migrates may do everything; whatever is cut short goes on with the next call. Raises Refused
    with the statements for an administrator where the user may not, Unavailable when a reader keeps a table whose owner
    has to change.
    """
    for statement in differences(conn):
        try:
            _execute(conn, statement)
        except errors.Refused as error:
            wanted = "; ".join(differences(conn))
            raise errors.Refused(f"{error}: an administrator has to say: {wanted}") from error


def _execute(conn: database.Connection, statement: str) -> None:
    """Run one statement in short attempts: whoever waits behind it for the same table waits no longer than one."""
    for attempt in range(ATTEMPTS):
        try:
            with conn.transaction():
                conn.execute("SET LOCAL lock_timeout = '500ms'")
                conn.execute(statement.encode())
                return
        except errors.Unavailable as error:
            if not database.lacks_lock(error):
                raise
            time.sleep(0.05 * (attempt + 1))
    raise errors.Unavailable(f"expected the lock for {statement!r} within {ATTEMPTS} attempts")


def differences(conn: database.Connection) -> list[str]:
    """The statements that would make the rights of the database those of `rights`; empty when they are."""
    return [
        *_schema(conn),
        *_relations(conn),
        *_functions(conn),
        *_types(conn),
        *_entries(conn),
    ]


def unclassified(conn: database.Connection) -> list[str]:
    """Tables, views, functions and types of the schema that `rights` does not name, and names nothing has."""
    relations = {row[0] for row in conn.execute(SELECT_RELATIONS)}
    functions = {row[0] for row in conn.execute(SELECT_FUNCTIONS)}
    types = {row[0] for row in conn.execute(SELECT_TYPES)}
    return sorted(
        [f"relation {name}" for name in relations ^ rights.RELATIONS.keys()]
        + [f"function {name}" for name in functions ^ rights.FUNCTIONS.keys()]
        + [f"type {name}" for name in types ^ set(rights.TYPES)]
    )


def _schema(conn: database.Connection) -> Iterator[str]:
    row = conn.execute(SELECT_SCHEMA, {"roles": list(Role), "owner": str(Role.OWNER)}).fetchone()
    if row is None:
        raise errors.InvariantBroken("the connection has no current schema: expected a search_path with one")
    schema, without_usage, owner_creates, anybody_creates = row
    if without_usage:
        yield f"GRANT USAGE ON SCHEMA {schema} TO {', '.join(without_usage)}"
    if not owner_creates:
        yield f"GRANT CREATE ON SCHEMA {schema} TO {Role.OWNER}"
    if anybody_creates:  # who may create there could put their own function before one of ours
        yield f"REVOKE CREATE ON SCHEMA {schema} FROM {PUBLIC}"


def _relations(conn: database.Connection) -> Iterator[str]:
    quoted: dict[str, str] = {}  # of what is named, by name; partitions stand for themselves
    ours: set[str] = set()
    for name, text, is_partition, owner in conn.execute(SELECT_RELATIONS):
        if name in rights.RELATIONS:
            ours.add(text)
            if owner != Role.OWNER:
                yield f"ALTER TABLE {text} OWNER TO {Role.OWNER}"
            if not is_partition:
                quoted[name] = text
    wanted = {grant._replace(name=quoted[grant.name]) for grant in rights.relation_grants() if grant.name in quoted}
    found = {Grant(*row) for row in conn.execute(SELECT_RELATION_GRANTS) if row[0] in ours}
    yield from _grants("", wanted, found)


def _functions(conn: database.Connection) -> Iterator[str]:
    signatures: dict[str, list[str]] = {}
    # pg_catalog, unnamed, is searched before these, temporary tables after; new partitions go to the first.
    path = f"{_one(conn, 'SELECT quote_ident(current_schema())')}, pg_temp"
    for name, signature, owner, as_owner, search_path in conn.execute(SELECT_FUNCTIONS):
        if name not in rights.FUNCTIONS:
            continue
        signatures.setdefault(name, []).append(signature)
        if owner != Role.OWNER:
            yield f"ALTER FUNCTION {signature} OWNER TO {Role.OWNER}"
        if rights.FUNCTIONS[name].as_owner and not (as_owner and search_path == path):
            yield f"ALTER FUNCTION {signature} SECURITY DEFINER SET search_path = {path}"
        if as_owner and not rights.FUNCTIONS[name].as_owner:
            yield f"ALTER FUNCTION {signature} SECURITY INVOKER"
    ours = {signature for group in signatures.values() for signature in group}
    wanted = {
        grant._replace(name=signature)
        for grant in rights.function_grants()
        for signature in signatures.get(grant.name, [])
    }
    found = {Grant(*row) for row in conn.execute(SELECT_FUNCTION_GRANTS) if row[0] in ours}
    yield from _grants("FUNCTION ", wanted, found)


def _types(conn: database.Connection) -> Iterator[str]:
    for name, text, owner in conn.execute(SELECT_TYPES):
        if name in rights.TYPES and owner != Role.OWNER:
            yield f"ALTER TYPE {text} OWNER TO {Role.OWNER}"


def _entries(conn: database.Connection) -> Iterator[str]:
    if conn.execute("SELECT to_regclass('entry_rights')").fetchone() == (None,):
        return
    wanted = set(rights.entry_grants())
    found = {(kind, role) for kind, role in conn.execute("SELECT kind, grantee FROM entry_rights")}
    for kind, role in sorted(found - wanted):
        yield f"DELETE FROM entry_rights WHERE kind = '{kind}' AND grantee = '{role}'"
    for kind, role in sorted(wanted - found):
        yield f"INSERT INTO entry_rights VALUES ('{kind}', '{role}')"


def _grants(what: str, wanted: Iterable[Grant], found: Iterable[Grant]) -> Iterator[str]:
    wanted, managed = set(wanted), {PUBLIC, *rights.RUNTIME}
    found = {grant for grant in found if grant.role in managed}
    for name, column, privilege, role in sorted(found - wanted, key=repr):
        yield f"REVOKE {privilege}{_of(column)} ON {what}{name} FROM {role}"
    for name, column, privilege, role in sorted(wanted - found, key=repr):
        yield f"GRANT {privilege}{_of(column)} ON {what}{name} TO {role}"


def _of(column: str | None) -> str:
    return f' ("{column}")' if column else ""


def _one(conn: database.Connection, query: str) -> str:
    return str((conn.execute(query.encode()).fetchone() or ("",))[0])
