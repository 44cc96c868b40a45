"""Where figures go: one table for the terminal, `latest.json` for programs, `RESULTS.md` for whoever compares later."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.ground import Figure, Ground, Result

FOLDER = Path(__file__).parent
LATEST = FOLDER / "latest.json"
RESULTS = FOLDER / "RESULTS.md"
HEADING = "# Results\n\nNewest last; `make bench` appends. What was tried and did not work: LOG.md.\n"
SETTINGS = (
    "server_version", "shared_buffers", "fsync", "synchronous_commit", "full_page_writes", "wal_level", "max_wal_size",
    "wal_sync_method", "checkpoint_timeout",
)  # fmt: skip


def show(results: dict[str, Result]) -> None:
    """Print the table to stdout."""
    table = Table("benchmark", "figure", "unit", "target", "note", title="clickledger benchmarks")
    table.columns[1].justify = "right"
    for name, result in results.items():
        for figure in result.figures:
            table.add_row(f"{name}: {figure.what}", _number(figure.value), figure.unit, _target(figure), figure.note)
        table.add_section()
    Console(width=None if os.isatty(1) else 160).print(table)


def save(results: dict[str, Result], ground: Ground) -> None:
    """Merge the keys into `latest.json` and append the figures, with their machine and date, to `RESULTS.md`."""
    latest = json.loads(LATEST.read_text()) if LATEST.exists() else {}
    for result in results.values():
        latest |= result.keys
    LATEST.write_text(json.dumps(latest, indent=2, sort_keys=True) + "\n")
    text = RESULTS.read_text() if RESULTS.exists() else HEADING
    RESULTS.write_text(text + _section(results, ground))


def _section(results: dict[str, Result], ground: Ground) -> str:
    lines = [f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, revision {_revision()}\n", *_machine(ground), ""]
    lines += ["| figure | value | unit | target | note |", "|---|---:|---|---|---|"]
    for name, result in results.items():
        for f in result.figures:
            lines.append(f"| {name}: {f.what} | {_number(f.value)} | {f.unit} | {_target(f)} | {f.note} |")
    return "\n".join([*lines, "", *_verdict(results), ""])


def _verdict(results: dict[str, Result]) -> list[str]:
    judged = [figure for result in results.values() for figure in result.figures if figure.met is not None]
    return [
        f"- {'met' if f.met else 'MISSED'}: {f.what}: {_number(f.value)} {f.unit}, wanted {f.target}".replace(" ,", ",")
        for f in judged
    ]


def _machine(ground: Ground) -> list[str]:
    with psycopg.connect(ground.servers.database_url) as conn:
        settings = [f"{name} {value}" for name in SETTINGS for (value,) in conn.execute(f"SHOW {name}".encode())]
    memory = psutil.virtual_memory().total / 2**30
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"- machine: {_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB memory, {platform.system()}"
        f" {platform.machine()}, Python {platform.python_version()}; load (1, 5, 15 min) at the end {load}",
        f"- PostgreSQL: {', '.join(settings)}",
    ]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def _revision() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(FOLDER), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    written_here = [f":(exclude,top)benchmarks/{path.name}" for path in (LATEST, RESULTS)]
    changed = " with changes" if git("status", "--porcelain", "--", ":(top)", *written_here) else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _target(figure: Figure) -> str:
    return "" if figure.met is None else f"{figure.target}: {'met' if figure.met else 'missed'}"
