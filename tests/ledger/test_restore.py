"""Backup and point-in-time restore, as docs/operations.md says it: what is restored verifies, and cursors know it.

A reader who saw more than was restored must be told so, before and after other entries take the lost positions.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from batches import batch, clicks
from own_server import OwnServer, folder_of_servers, own_server
from replays import published

from clickledger import errors
from clickledger.console import account, processes
from clickledger.ledger import append, audit, billing, database, log, schema

ARCHIVED = "SELECT last_archived_wal >= %s FROM pg_stat_archiver WHERE last_archived_wal IS NOT NULL"


def archive_command(archive: Path) -> str:
    """As docs/operations.md has it: never overwrites; a segment is there whole under its final name, or not at all."""
    final, part = f'"{archive}/%f"', f'"{archive}/%f.part"'
    copied = f'test ! -f {final} && cp "%p" {part} && sync {part} && mv {part} {final} && sync {archive}'
    return f'{{ cmp -s "%p" {final} && sync {final} {archive}; }} || {{ {copied}; }}'


def test_segment_that_is_offered_again_after_a_crash_is_archived_and_another_one_of_its_name_refused(
    tmp_path: Path,
) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    said = "".join(re.findall(r"^ +'(.*)'", documented.partition("SET archive_command =")[2], re.MULTILINE)[:2])
    assert said == archive_command(Path("/backup/wal"))
    segment, archive = tmp_path / "segment", tmp_path / "archive"
    archive.mkdir()
    for content, code in ((b"first", 0), (b"first", 0), (b"other", 1), (b"first", 0)):
        segment.write_bytes(content)
        command = archive_command(archive).replace("%p", str(segment)).replace("%f", "0001")
        assert subprocess.run(["sh", "-c", command], check=False).returncode == code
        assert [(path.name, path.read_bytes()) for path in archive.iterdir()] == [("0001", b"first")]


@contextmanager
def archiving_server(tmp: Path) -> Iterator[tuple[OwnServer, Path]]:
    """A server that copies each finished segment of its write-ahead log to a folder."""
    archive = tmp / "archive"
    account.give(archive, account.for_servers(archive / "nothing"))
    with own_server("archive_mode=on", f"archive_command={archive_command(archive)}") as server:
        account.open_way(archive, account.for_servers(archive))
        yield server, archive


def base_backup(server: OwnServer, to: Path) -> None:
    to.mkdir(mode=0o700)
    account.give(to, account.for_servers(to / "nothing"))
    server.program(
        "pg_basebackup", "-h", str(server.folder), "-U", "clickledger", "-D", str(to / "data"), "--checkpoint=fast"
    )
    server.program("pg_verifybackup", str(to / "data"))


def archive_everything(conn: database.Connection) -> None:
    row = conn.execute("SELECT pg_walfile_name(pg_current_wal_lsn()), pg_switch_wal()").fetchone()
    assert row is not None
    assert processes.wait_until(lambda: conn.execute(ARCHIVED, (row[0],)).fetchone() == (True,), 30)


@pytest.mark.timeout(300)
def test_ledger_restored_to_a_moment_verifies_and_cursors_beyond_it_are_refused() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="clickledger-own-", dir=folder_of_servers()) as name,
        archiving_server(Path(name)) as (server, archive),
    ):
        folder = Path(name)
        schema.migrate(server.url)
        with database.connect(server.url) as conn:
            append.append(conn, batch(clicks(5)), actor="tests")
            base_backup(server, folder / "restored")
            published(conn, 2, 3, {clicks(1)[0].click_id: "invalid"})
            append.append(conn, batch(clicks(5, start=5)), actor="tests")
            kept = billing.read(conn, limit=1_000)
            entries, totals = log.read(conn), billing.totals(conn)
            moment = conn.execute("SELECT clock_timestamp()").fetchone()
            append.append(conn, batch(clicks(5, start=10)), actor="tests")
            append.append(conn, batch(clicks(5, start=15)), actor="tests")
            lost = billing.read(conn, limit=1_000)
            archive_everything(conn)
        assert moment is not None
        restored = server.restored(
            folder / "restored", f"recovery_target_time={moment[0].isoformat()}", f'cp "{archive}/%f" "%p"'
        )
        try:
            with database.connect(restored.url) as conn:
                assert processes.wait_until(lambda: _is_open(conn), 60), restored.log()
                assert log.read(conn) == entries
                assert billing.totals(conn) == totals
                assert audit.verify(conn).ok
                assert billing.read(conn, kept.cursor).entries == []
                with pytest.raises(errors.Conflict, match="got no entry"):
                    billing.read(conn, lost.cursor)
                # The lost clicks come again, with other ones, and take the lost positions.
                answer = append.append(conn, batch(clicks(6, start=10)), actor="tests")
                assert (answer.position, answer.new) == (len(entries) + 1, 6)
                append.append(conn, batch(clicks(5, start=16)), actor="tests")
                with pytest.raises(errors.Conflict, match="expected chain hash"):
                    billing.read(conn, lost.cursor)
                assert len(billing.read(conn, kept.cursor).entries) == 11
                assert audit.verify(conn).ok
        finally:
            restored.stop()


def _is_open(conn: database.Connection) -> bool:
    return conn.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,)
