"""Starting, recognising and stopping processes that outlive the one that started them.

Invariants:
- a process is known by its pid *and* its birth mark (boot and start tick), so a reused pid is never taken for it;
- only processes known in that way are ever signalled;
- a started process is the leader of its own session: closing the terminal or ending the parent leaves it alone.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import psutil

from clickledger.console.account import Account
from clickledger.errors import Unavailable
from clickledger.settings import PREFIX

LOG_BYTES_MAX = 32 * 1024 * 1024
POLL_SECONDS = (0.01, 0.25)  # first and longest pause between two looks

# Children of this very process, kept so that they can be reaped when they end: Popen warns when it is forgotten alive.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Process:
    """One process for its whole life: `born` differs between two processes that get the same pid."""

    pid: int
    born: str


def identify(pid: int) -> Process | None:
    """The process that has `pid` now, or None when there is none (a zombie is none)."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return Process(pid, _birth_mark(process))
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        pass
    _reap(pid)
    return None


@atexit.register
def _leave_children() -> None:
    """Children outlive us on purpose, so the interpreter shall not warn of those that still run at its end."""
    for child in _children.values():
        if child.poll() is None:
            child.returncode = 0


def _reap(pid: int) -> None:
    """Collect a child of ours that has ended, so that it is no zombie for ever."""
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        del _children[pid]


def _birth_mark(process: psutil.Process) -> str:
    """Linux: boot id and start tick, exact and untouched by clock changes. Elsewhere: the wall-clock start."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return f"{process.create_time():.2f}"
    after_name = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return f"{boot.read_text().strip()}/{after_name[19]}"


def alive(process: Process | None) -> bool:
    """True while exactly this process runs."""
    return process is not None and identify(process.pid) == process


def command_of(pid: int) -> list[str]:
    """The command line of `pid`, [] when it is gone or hidden."""
    try:
        return [str(word) for word in psutil.Process(pid).cmdline()]
    except psutil.Error:
        return []


def started_near(pid: int, unix_seconds: float, tolerance: float = 5.0) -> bool:
    """True when `pid` runs and began about then; for pid files that hold a time and no birth mark."""
    try:
        return abs(float(psutil.Process(pid).create_time()) - unix_seconds) <= tolerance
    except psutil.NoSuchProcess:
        return False


def matching(wanted: Callable[[list[str]], bool]) -> list[Process]:
    """All live processes whose command line satisfies `wanted`."""
    found = [identify(pid) for pid in psutil.pids() if (words := command_of(pid)) and wanted(words)]
    return [process for process in found if process is not None]


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Process:
    """Start `command` in `folder`, detached, as `account` (None: as the caller), output appended to `log`.

    Without an `environment` it gets ours but for our settings: keys are among them, and a server may be another's to
    look into. Raises `Unavailable` when it cannot be executed.
    """
    if environment is None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    _rotate(log)
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
                umask=0o077,
                **as_account(account),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"cannot start {command[0]}: {error}") from error
    _children[child.pid] = child
    process = identify(child.pid)
    return process or Process(child.pid, "ended at once")


def spawn_recorded(
    command: Sequence[str],
    log: Path,
    record: Callable[[Process], None],
    *,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """`spawn`, but the command begins only after `record` returned: a process nobody wrote down never runs.

    It waits as a shell that reads one line and then becomes the command (same pid, same birth). Whoever dies before
    sending the line, or fails to record, closes the pipe, and the shell ends.
    """
    shell = ["/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "sh", *command]
    read_end, write_end = os.pipe()
    try:
        process = spawn(shell, log, folder=folder, environment=environment, stdin=read_end)
    finally:
        os.close(read_end)
    with os.fdopen(write_end, "wb") as line:
        record(process)
        line.write(b"go\n")
    return process


class RunAs(TypedDict, total=False):
    """Arguments of `subprocess` functions that say whom the child runs as."""

    user: int
    group: int
    extra_groups: list[int]


def as_account(account: Account | None) -> RunAs:
    """Run as `account` and in no further group; None changes nothing."""
    return RunAs() if account is None else RunAs(user=account.uid, group=account.gid, extra_groups=[])


def _rotate(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(log.name + ".1"))


def stop(process: Process | None, steps: Sequence[tuple[signal.Signals, float]]) -> bool:
    """Send each signal in turn and give the process its seconds after each. True when it has ended."""
    for number, seconds in steps:
        if process is None or not alive(process):
            return True
        try:
            _send(process.pid, number)
        except ProcessLookupError:
            return True
        except PermissionError as error:
            raise Unavailable(f"process {process.pid} belongs to another user: {error}") from error
        if wait_until(lambda: not alive(process), seconds):
            return True
    return not alive(process)


def _send(pid: int, number: signal.Signals) -> None:
    """A kill goes to the children too (each started process leads its group); gentler signals are the leader's job."""
    if number == signal.SIGKILL and os.getpgid(pid) == pid:
        os.killpg(pid, number)
    else:
        os.kill(pid, number)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Look again and again, at growing pauses, until `condition` holds; False when `seconds` have passed."""
    deadline = time.monotonic() + seconds
    pause, longest = POLL_SECONDS
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(longest, pause * 1.5)
    return True


def log_tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log on one line, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"no log: {error}"
    return " | ".join(line.strip() for line in text.splitlines()[-lines:] if line.strip()) or "the log is empty"
