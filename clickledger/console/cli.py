"""The program `clickledger`.

Commands live in sibling modules called `cli_*`; each has `register(app)`, which adds its commands or sub-apps. They are
imported at every start, so anything slow to import (torch, celery, scikit-learn) is imported inside the commands.

Exit codes: 0 done; 1 done with findings, or a defect; otherwise the `exit_code` of the error (see `errors.py`), 2 for
a wrong command line, 130 after ^C. Errors are one line on stderr; a defect's traceback goes to a file.
"""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from clickledger import console, settings
from clickledger.console import output
from clickledger.errors import ClickledgerError, Refused, Unavailable

INTERRUPTED = 130
UNDEFINED_TABLE = "42P01"  # SQLSTATE


def program() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="clickledger",
        help="An event-sourced ledger of billing decisions on ad clicks.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)  # keeps a single command from becoming the program itself
    for module in sorted(entry.name for entry in pkgutil.iter_modules(console.__path__)):
        if module.startswith("cli_"):
            importlib.import_module(f"{console.__name__}.{module}").register(app)
    return app


def _root() -> None:
    """An event-sourced ledger of billing decisions on ad clicks."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit. The entry point of the installed program."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; every outcome becomes an exit code and, where it is an error, one line on stderr."""
    try:
        answer = program()(args=None if arguments is None else list(arguments), standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _report(error)
    return answer if isinstance(answer, int) else 0


def _report(error: Exception) -> int:
    if isinstance(error, ClickledgerError):
        output.error(output.as_typed(str(error)))
        return error.exit_code
    if isinstance(error, typer.Abort):
        return INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else 1
    if isinstance(error, BrokenPipeError):
        return _reader_gone()
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        output.error(f"disk full: {error}")
        return Unavailable.exit_code
    if getattr(error, "sqlstate", None) == UNDEFINED_TABLE:
        said = str(error).splitlines()[0]
        output.error(output.as_typed(f"expected a migrated ledger (clickledger up) in this database, got: {said}"))
        return Refused.exit_code
    if callable(explain := getattr(error, "format_message", None)):  # a wrong command line, in click's words
        output.error(f"{explain() or 'expected a command'} (see --help)")
        return int(getattr(error, "exit_code", 2))
    output.error(f"{type(error).__name__}: {error}; this is a defect, details in {_traceback_file(error)}")
    return 1


def _reader_gone() -> int:
    """Whoever read our output has left (`| head`). Keep the interpreter's last flush from complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _traceback_file(error: Exception) -> Path:
    """Write the traceback to the home's log folder, or where there is none to a temporary file.

    It may quote rows, so nobody else reads it, and nobody can have put another file in its place.
    """
    text = "".join(traceback.format_exception(error))
    try:
        folder = (output.named_home() or settings.load().home) / "log"
    except ClickledgerError:
        folder = Path(tempfile.gettempdir())
    for candidate in (folder, Path(tempfile.gettempdir())):
        try:
            made, name = tempfile.mkstemp(".log", f"defect-{time.strftime('%Y%m%dT%H%M%S')}-", candidate)
            with os.fdopen(made, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return Path(name)
    return Path(os.devnull)


if __name__ == "__main__":
    main()
