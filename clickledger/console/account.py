"""Whom the local servers run as, and the way there.

PostgreSQL refuses to run as root. Started by root, both servers run as the system user `clickledger` (made when
missing; `nobody` where that is impossible). Started by anyone else they run as that user.

Invariants:
- folders on the way to data and programs get "traverse" for others (o+x) where it lacks, never "read", and each change
  is said on stderr;
- data folders are 0700 and belong to the account.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from clickledger.console import output
from clickledger.errors import Unavailable

NAME = "clickledger"
FALLBACK = "nobody"


@dataclass(frozen=True)
class Account:
    """A system user."""

    name: str
    uid: int
    gid: int


def for_servers(data: Path) -> Account | None:
    """The account to run the servers of `data` as; None when that is simply the caller (who is not root).

    Data that already belongs to an ordinary user stays that user's.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat().st_uid) != 0:
        return _of_uid(owner)
    return _named(NAME) or _made() or _fallback()


def _of_uid(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
        return Account(entry.pw_name, uid, entry.pw_gid)
    except KeyError as error:
        raise Unavailable(f"the local servers' data belongs to uid {uid}, expected a user of this system") from error


def _named(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(name, entry.pw_uid, entry.pw_gid)


def _made() -> Account | None:
    useradd = shutil.which("useradd") or "/usr/sbin/useradd"
    command = [useradd, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    try:
        subprocess.run([*command, "--shell", "/usr/sbin/nologin", NAME], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        output.say(f"could not make the system user {NAME} ({str(reason).strip()}); using {FALLBACK}")
    else:
        output.say(f"made the system user {NAME}: PostgreSQL refuses to run as root")
    return _named(NAME)


def _fallback() -> Account:
    account = _named(FALLBACK)
    if account is None or account.uid == 0:
        raise Unavailable(f"PostgreSQL refuses to run as root: expected a user {NAME} or {FALLBACK}, found neither")
    return account


def give(folder: Path, account: Account | None) -> None:
    """Make `folder` (0700, the account's) or, where it exists, make it so."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    if account is not None or folder.stat().st_uid == os.geteuid():
        folder.chmod(0o700)


def open_way(target: Path, account: Account | None) -> None:
    """Let `account` traverse every folder above `target`. Raises `Unavailable` when one cannot be changed."""
    if account is None:
        return
    for folder in reversed(target.resolve().parents):
        mode = folder.stat()
        if _may_traverse(mode, account):
            continue
        try:
            folder.chmod(stat.S_IMODE(mode.st_mode) | stat.S_IXOTH)
        except OSError as error:
            raise Unavailable(f"user {account.name} must be able to traverse {folder}: {error}") from error
        output.say(f"made {folder} traversable (o+x, not readable): the local servers run as {account.name}")


def _may_traverse(folder: os.stat_result, account: Account) -> bool:
    if folder.st_uid == account.uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    if folder.st_gid == account.gid:
        return bool(folder.st_mode & stat.S_IXGRP)
    return bool(folder.st_mode & stat.S_IXOTH)


def open_program(root: Path, account: Account | None) -> None:
    """Let `account` use the installed program under `root`: the way there, and its own files where a strict umask
    at installation closed them (they are a published package, nothing in them is secret)."""
    if account is None:
        return
    open_way(root, account)
    for path in [root, *root.rglob("*")] if root.is_dir() else [root]:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            continue
        wanted = mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0)
        if wanted != mode:
            path.chmod(stat.S_IMODE(wanted))
