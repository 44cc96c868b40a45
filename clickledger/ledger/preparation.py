"""Work that is done ahead in small steps, while a connection would only wait for its server."""

from __future__ import annotations

from collections.abc import Generator
from typing import Generic, TypeVar

T = TypeVar("T")


class Preparation(Generic[T]):
    """Something being made, step by step: each pause of the generator ends a step.

    What goes wrong is raised by `finish`, not into what is under way meanwhile: `step` suits `Connection.meanwhile`.
    """

    def __init__(self, steps: Generator[None, None, T]) -> None:
        self._steps = steps
        self._made: T
        self._error: Exception | None = None
        self.begun = self.done = False

    def step(self) -> bool:
        """Go on a little; whether there was anything left to do."""
        if self.done:
            return False
        self.begun = True
        try:
            next(self._steps)
        except StopIteration as end:
            self._made, self.done = end.value, True
        except Exception as error:
            self._error, self.done = error, True
        return True

    def finish(self) -> T:
        """Do what is left. Raises what went wrong, now or before."""
        while not self.done:
            self.step()
        if self._error is not None:
            raise self._error
        return self._made
