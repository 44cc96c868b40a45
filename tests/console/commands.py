"""What a command of `clickledger` ended with, for the tests that run one in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """Exit code, what was printed, what was said to people."""

    code: int
    out: str
    said: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was printed with --json, line by line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def fields(self) -> dict[str, Any]:
        """The last line of it; nothing where nothing was printed."""
        return dict(json.loads(self.out.splitlines()[-1])) if self.out.strip() else {}


Command = Callable[..., Answer]
