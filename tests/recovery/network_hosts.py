"""Hosts made of network namespaces: each has one address and one cable to a switch, which can be cut.

What is started while a thread is on a host stays there, and so does every socket made meanwhile; files, and with them
unix sockets, are shared. A cut resets nothing and tells nobody: packets are lost, as behind a router. Needs root.
Namespaces are named after the process that made them; those of a killed one are removed by the next.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from clickledger.console import processes

PREFIX = "clickledger-hosts"
NAMESPACES = Path("/var/run/netns")
NEW_UTS, NEW_NET = 0x04000000, 0x40000000  # linux/sched.h
SECONDS_MAX = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why this machine cannot have such hosts; None where it can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    try:
        with hosts("only"):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        return f"no network namespaces here: {str(said).strip()}"


class Hosts:
    """Hosts by name, 10.77.0.1 the first."""

    def __init__(self, names: Sequence[str]) -> None:
        self._own = f"{PREFIX}-{_mark(os.getpid())}"
        self._switch = f"{self._own}-switch"
        self._numbers = {name: number for number, name in enumerate(names, 1)}

    def make(self) -> None:
        """The switch, the hosts, and a cable from each to it."""
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "switch", "up")
        for name in self._numbers:
            there, cable = self._namespace(name), ("type", "veth", "peer", "name", "eth0", "netns")
            _ip("netns", "add", there)
            _ip("-n", self._switch, "link", "add", self._plug(name), *cable, there)
            _ip("-n", self._switch, "link", "set", self._plug(name), "master", "switch", "up")
            _ip("-n", there, "link", "set", "eth0", "address", self._hardware_address(name))
            _ip("-n", there, "address", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", there, "link", "set", "eth0", "up")
            _ip("-n", there, "link", "set", "lo", "up")
            for other in self._numbers:  # for good, so that nobody learns from an unanswered ARP that another is gone
                known = (self.address(other), "lladdr", self._hardware_address(other))
                _ip("-n", there, "neighbour", "replace", *known, "nud", "permanent", "dev", "eth0")

    def remove(self) -> None:
        """Everything that runs on the hosts is ended, and they are gone."""
        _remove(self._own)

    def address(self, name: str) -> str:
        """Where a host is reached from the others."""
        return f"10.77.0.{self._numbers[name]}"

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """This thread is on a host, whose name is also what `gethostname` answers."""
        with ExitStack() as back:
            here = {kind: os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "uts")}
            for kind, number in (("uts", NEW_UTS), ("net", NEW_NET)):
                back.callback(os.close, here[kind])
                back.callback(_enter, here[kind], number)
            there = os.open(NAMESPACES / self._namespace(name), os.O_RDONLY)
            back.callback(os.close, there)
            _enter(there, NEW_NET)
            _checked(_LIBC.unshare(NEW_UTS))
            socket.sethostname(name)
            yield

    def cut(self, name: str) -> None:
        """From now on nothing reaches the host, and nothing comes from it; both ends of the cable stay up."""
        _ip("-n", self._switch, "link", "set", self._plug(name), "nomaster")

    def join(self, name: str) -> None:
        """It is reached again."""
        _ip("-n", self._switch, "link", "set", self._plug(name), "master", "switch")

    def _namespace(self, name: str) -> str:
        return f"{self._own}-{name}"

    def _plug(self, name: str) -> str:
        return f"plug{self._numbers[name]}"

    def _hardware_address(self, name: str) -> str:
        return f"02:00:00:00:00:{self._numbers[name]:02x}"


@contextmanager
def hosts(*names: str) -> Iterator[Hosts]:
    """Hosts of those names, gone at the end with everything that was started on them."""
    _sweep_killed()
    made = Hosts(names)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _sweep_killed() -> None:
    """Remove the hosts of processes that were killed before they could."""
    owners = {found.name[len(PREFIX) + 1 :].split("-")[0] for found in NAMESPACES.glob(f"{PREFIX}-*")}
    for owner in owners:
        if owner != _mark(int(owner.split(".")[0])):
            _remove(f"{PREFIX}-{owner}")


def _remove(prefix: str) -> None:
    """Namespaces whose names begin so, and first what runs in them."""
    for found in sorted(NAMESPACES.glob(f"{prefix}-*")):
        try:
            ended = processes.wait_until(partial(_emptied, found.name), SECONDS_MAX)
            _ip("netns", "delete", found.name)
        except subprocess.CalledProcessError:
            if found.exists():  # else another sweep was faster
                raise
        else:
            assert ended, f"expected what runs on {found.name} to end"


def _emptied(namespace: str) -> bool:
    """Whether nothing runs in a namespace; what does is sent SIGKILL."""
    pids = [int(pid) for pid in _ip("netns", "pids", namespace).split()]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not pids


def _mark(pid: int) -> str:
    """Which process it is: its pid and the tick it started at, since the machine did."""
    process = processes.identify(pid)
    return "" if process is None else f"{pid}.{process.born.rpartition('/')[2]}"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=SECONDS_MAX).stdout


def _enter(descriptor: int, kind: int) -> None:
    _checked(_LIBC.setns(descriptor, kind))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
