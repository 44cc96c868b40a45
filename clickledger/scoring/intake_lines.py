"""Lines of a file, one at a time: memory is bounded by the longest line accepted, not by the longest line sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, TypeVar

from clickledger.scoring.intake_fields import GOT_CHARS_MAX, RejectedClick, Rejection, shown

Parsed = TypeVar("Parsed")
Progress = Callable[[int, int], None]  # lines read, bytes read

PROGRESS_LINES = 5_000
_BOM = b"\xef\xbb\xbf"


def parse_lines(
    stream: BinaryIO,
    parse: Callable[[bytes], Parsed],
    line_bytes_max: int,
    progress: Progress | None = None,
    first_line: int = 1,
) -> Iterator[tuple[int, Parsed] | Rejection]:
    """Yield (line number, parsed) or a `Rejection` for each line that is not blank.

    `parse` gets the line without surrounding white space and raises `RejectedClick`. `progress` is called now and then
    and at the end.
    """
    number, bytes_read = first_line - 1, 0
    for number, (line, size) in enumerate(_bounded_lines(stream, line_bytes_max), first_line):
        bytes_read += size
        if progress is not None and number % PROGRESS_LINES == 0:
            progress(number, bytes_read)
        content = (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r\n")
        if len(line) < size:
            expected, got = f"at most {line_bytes_max} bytes", f"{size} bytes: {shown(content[:GOT_CHARS_MAX])}"
            yield Rejection(number, "row", expected, got)
        elif content:
            yield _parsed(number, content, parse)
    if progress is not None:
        progress(number, bytes_read)


def _parsed(number: int, content: bytes, parse: Callable[[bytes], Parsed]) -> tuple[int, Parsed] | Rejection:
    try:
        return number, parse(content)
    except RejectedClick as error:
        return Rejection(number, error.field, error.expected, error.got)


def _bounded_lines(stream: BinaryIO, bytes_max: int) -> Iterator[tuple[bytes, int]]:
    """Yield each line, cut to its first `bytes_max` bytes, with its real size in bytes (line ends included)."""
    chunk_bytes = bytes_max + 2  # room for the line end
    while line := stream.readline(chunk_bytes):
        size, last = len(line), line
        while len(last) == chunk_bytes and not last.endswith(b"\n"):
            last = stream.readline(chunk_bytes)
            size += len(last)
        is_whole = size == len(line) and len(line.rstrip(b"\r\n")) <= bytes_max
        yield (line if is_whole else line[:bytes_max]), size
