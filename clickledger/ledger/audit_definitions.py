"""Tables, views, functions, triggers and rules of a database, compared with what this release's migrations make.

They are the owner's, who could replace them: a view that shows other decisions, an append that writes others, a
trigger that no longer refuses, a view that stands where a table was and shows readers what it likes. `definitions.json`
holds a digest of each, taken from a migrated database (`record`): what a database would say of its own definitions
could be replaced along with them.

The text of a view is made by the server from what it keeps, and differs by its major version: it is compared on the
versions it was recorded on. Settings of the planner, by which no answer changes, are not compared: they may be tuned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from clickledger.ledger import database
from clickledger.ledger.partitions import PARENTS

RECORDED = Path(__file__).with_name("definitions.json")
# (what, digest) of everything in the ledger's schema that has one, whatever that schema is called.
SELECT_DEFINITIONS = """
    WITH ours AS (SELECT to_regnamespace(quote_ident(current_schema())) AS oid,
                         quote_ident(current_schema()) || ', pg_temp' AS path)
    SELECT d.what, encode(sha256(convert_to(concat_ws(chr(31), VARIADIC d.parts), 'UTF8')), 'hex') FROM (
        SELECT format('function %s(%s)', p.proname, pg_get_function_identity_arguments(p.oid)) AS what,
               ARRAY[p.prosrc, l.lanname::text, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
                     p.prokind::text, p.provolatile::text, p.prosecdef::text, p.proisstrict::text, p.proretset::text,
                     (SELECT string_agg(replace(s, (SELECT path FROM ours), 'ours'), chr(30) ORDER BY s)
                      FROM unnest(p.proconfig) s WHERE s !~ '^(plan_cache_mode|enable_[a-z]+)=')] AS parts
        FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = (SELECT oid FROM ours)
        UNION ALL
        SELECT format('table %s', c.relname), ARRAY[c.relkind::text]
        FROM pg_class c WHERE c.relkind IN ('r', 'p', 'f', 'm') AND NOT c.relispartition
          AND c.relnamespace = (SELECT oid FROM ours)
        UNION ALL
        SELECT format('view %s', c.relname), ARRAY[pg_get_viewdef(c.oid)]
        FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = (SELECT oid FROM ours)
        UNION ALL
        SELECT format('trigger %s on %s', t.tgname, c.relname),
               ARRAY[f.proname::text, t.tgtype::text, t.tgenabled::text, t.tgattr::text, encode(t.tgargs, 'hex'),
                     t.tgoldtable::text, t.tgnewtable::text,
                     coalesce(substring(pg_get_triggerdef(t.oid) FROM ' WHEN [(](.*)[)] EXECUTE FUNCTION '), '')]
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc f ON f.oid = t.tgfoid
        WHERE c.relnamespace = (SELECT oid FROM ours) AND (NOT t.tgisinternal OR t.tgparentid <> 0)
          AND NOT (t.tgname = 'sealed' AND f.proname = 'refuse_sealed') -- comes and goes with a day that leaves
        UNION ALL
        SELECT format('trigger of a key on %s', c.relname), ARRAY[t.tgenabled::text]
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = (SELECT oid FROM ours) AND t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled <> 'O'
        UNION ALL
        SELECT format('rule %s on %s', r.rulename, c.relname), ARRAY[r.ev_type::text]
        FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
        WHERE c.relnamespace = (SELECT oid FROM ours) AND r.rulename <> '_RETURN'
        UNION ALL
        SELECT format('policy %s on %s', y.polname, c.relname), ARRAY[y.polcmd::text]
        FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid WHERE c.relnamespace = (SELECT oid FROM ours)) d"""
SELECT_LEAVES = """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = ANY (%s::regclass[]) AND NOT i.inhdetachpending"""
LEAF = re.compile(r" on ([a-z_]+)_(undated|[0-9]{8})$")
SITES_MAY_ADD = ("function ", "table ", "view ")


class Definitions(NamedTuple):
    """Digests by what they are of: of views by major version of the server, and all others."""

    views: dict[str, dict[str, str]]
    others: dict[str, str]


def recorded() -> Definitions:
    """What this release's migrations make."""
    return Definitions(**json.loads(RECORDED.read_text(encoding="utf-8")))


def verify(conn: database.Connection) -> list[str]:
    """One line for each definition that is missing, is another, or is there beyond those of this release."""
    expected = recorded()
    leaves = {row[0] for row in conn.execute(SELECT_LEAVES, (list(PARENTS),))}
    found = {what: digest for what, digest in _found(conn) if _stands(what, leaves)}
    wanted = expected.others | expected.views.get(_major(conn), {})
    wanted |= dict(_of_leaves(wanted, leaves))
    missing = [f"{what}: expected that of this release, got none" for what in wanted.keys() - found.keys()]
    other = [f"{what}: it is not the one of this release" for what, of in wanted.items() if found.get(what, of) != of]
    beyond = [f"{what}: nothing of this release" for what in found.keys() - wanted.keys() if _matters(what, wanted)]
    return sorted(missing + other + beyond)


def unverified(conn: database.Connection) -> list[str]:
    """A note where the server is of a version whose texts of views were not recorded."""
    if (major := _major(conn)) in recorded().views:
        return []
    known = ", ".join(recorded().views)
    return [f"views: not compared with those of this release, which are recorded for PostgreSQL {known}, not {major}"]


def record(conn: database.Connection) -> Definitions:
    """What to write to `RECORDED`, taken from a database that was just migrated; views of other versions stay."""
    known = recorded().views if RECORDED.exists() else {}
    found = dict(sorted(_found(conn)))
    views = {what: digest for what, digest in found.items() if what.startswith("view ")}
    others = {LEAF.sub(r" on \1_*", what): digest for what, digest in found.items() if what not in views}
    return Definitions(dict(sorted((known | {_major(conn): views}).items())), others)


def _found(conn: database.Connection) -> Iterator[tuple[str, str]]:
    """All there is, of this database."""
    for what, digest in conn.execute(SELECT_DEFINITIONS):
        yield str(what), str(digest)


def _stands(what: str, leaves: Collection[str]) -> bool:
    """Whether it is of something of the ledger: partitions that are being made, or were detached, are not."""
    return LEAF.search(what) is None or what.rpartition(" on ")[2] in leaves


def _of_leaves(wanted: dict[str, str], leaves: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The triggers that each partition must have, by those of "parent_*", which are taken out of `wanted`."""
    of_parent = {what: wanted.pop(what) for what in list(wanted) if what.endswith("_*")}
    for leaf in leaves:
        parent = LEAF.sub(r" on \1_*", f" on {leaf}")
        for what, digest in of_parent.items():
            if what.endswith(parent):
                yield what.removesuffix(parent) + f" on {leaf}", digest


def _matters(what: str, wanted: dict[str, str]) -> bool:
    """Of functions, tables and views that others added, only one that could be taken for ours by its name."""
    if not what.startswith(SITES_MAY_ADD):
        return True
    name = what.partition("(")[0]
    return any(known.partition("(")[0] == name for known in wanted)


def _major(conn: database.Connection) -> str:
    return str(conn.info.server_version // 10_000)
