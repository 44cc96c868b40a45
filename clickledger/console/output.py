"""What people and scripts read: prose, progress and hints on stderr; one JSON object as the last line of stdout."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

COMMAND = re.compile(
    r"\bclickledger((?: (?:audit(?: key)?|facts|incident|model|period|replay|retention))? [a-z]+(?:-[a-z]+)*)"
)
FILE_COLUMNS = 300
LINE_SECONDS = 10.0  # between lines of progress where nobody's screen draws a bar
_named_home: ContextVar[Path | None] = ContextVar("named_home", default=None)


def terminal() -> Console:
    """The console all prose goes to. Made on each call: tests and redirections replace `sys.stderr`.

    Where nobody's screen sets a width, tables are as wide as their lines: a folded key or address cannot be copied.
    Neither square brackets nor `:name:` mean anything: reasons and senders' texts have them.
    """
    width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else FILE_COLUMNS
    return Console(file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False, width=width)


def say(text: str) -> None:
    """One line of prose, printed as it is."""
    terminal().print(printable(text))


def error(text: str) -> None:
    """One line that begins with `error: `, whatever line breaks the message had."""
    print("error: " + printable(" ".join(text.split())), file=sys.stderr)


def printable(text: str) -> str:
    """A text in which line breaks, escapes and other invisible characters are spelt out, `\\n` and `\\x1b`.

    What a sender wrote can neither begin a line of its own nor move the cursor over one of ours.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def name_home(folder: Path) -> None:
    """From now on hints name the home folder, as the command they follow did: without it they would miss the ledger."""
    _named_home.set(folder)


def named_home() -> Path | None:
    """The home folder that the command named, if it did."""
    return _named_home.get()


def hint(text: str) -> None:
    """What to do next, usually a command, which works when it is pasted into the same shell."""
    terminal().print(printable(f"next: {as_typed(text)}"), style="dim")


def as_typed(text: str) -> str:
    """A text whose commands work when they are pasted: with this shell's program, and the home that was named."""
    return COMMAND.sub(_as_typed, text)


def _as_typed(command: re.Match[str]) -> str:
    """A command as this shell finds it: `make` runs the program of a virtual environment that nobody has activated."""
    elsewhere = Path(sys.argv[0]).name == "clickledger" and not shutil.which("clickledger")
    program = shlex.quote(sys.argv[0]) if elsewhere else "clickledger"
    folder = _named_home.get()
    return program + command[1] + (f" --home {shlex.quote(str(folder))}" if folder else "")


def result(fields: Mapping[str, Any]) -> None:
    """The machine-readable answer: one JSON object on one line of stdout. Print it last."""
    print(json.dumps(fields, default=str, allow_nan=False), flush=True)


def rows(title: str, columns: Iterable[str], lines: Iterable[Iterable[object]]) -> None:
    """A table on stderr."""
    table = Table(title=printable(title), title_justify="left", show_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place == 0)  # the first one names the line
    for line in lines:
        table.add_row(*[printable(str(cell)) for cell in line])
    terminal().print(table)


class Steps:
    """Handle of `progress`: `advance(n)` counts units done, `describe(text)` changes the words before the bar."""

    def __init__(self, bar: Progress, task: Any) -> None:
        self._bar = bar
        self._task = task
        self._began = time.monotonic()

    @property
    def drawn(self) -> bool:
        """Whether there is a terminal that shows it."""
        return not self._bar.disable

    def advance(self, units: float = 1) -> None:
        self._bar.advance(self._task, units)

    def describe(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def expect(self, total: float) -> None:
        self._bar.update(self._task, total=total)

    def line(self) -> str:
        """How far it is and the time remaining, if that can be told, in words."""
        task, seconds = self._bar.tasks[self._task], time.monotonic() - self._began
        words = f"{task.description}: "
        if task.total is None:
            return words + (f"{task.completed:,.0f}, " if task.completed else "") + f"{seconds:,.0f} s so far"
        words += f"{task.completed:,.0f} of {task.total:,.0f} in {seconds:,.0f} s"
        left = seconds * (task.total - task.completed) / task.completed if task.completed else None
        return words if left is None else f"{words}, about {left:,.0f} s left"


@contextmanager
def progress(text: str, total: float | None = None, *, lines: bool = True) -> Iterator[Steps]:
    """A progress bar on stderr with count and time remaining; where that is no terminal, a line now and then.

    Without `lines` the caller says them itself.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = terminal()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        steps = Steps(bar, bar.add_task(text, total=total))
        with _lines(steps) if lines and not steps.drawn else nullcontext():
            yield steps


@contextmanager
def _lines(steps: Steps) -> Iterator[None]:
    """Say how far it is every LINE_SECONDS, from a thread of its own: the work may be one long statement."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(LINE_SECONDS):
            say(steps.line())

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
