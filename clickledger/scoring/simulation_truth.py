"""What simulated clicks really were. For summaries and tests only: nothing that trains or decides may import this."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clickledger.scoring.click import Click

HUMAN = "human"
KINDS = (HUMAN, "burst", "competitor", "botnet", "click_farm", "gateway_scraper", "adware")


@dataclass(frozen=True)
class Truth:
    """The kind of each click (n,), as an index into `KINDS`, in the order of the traffic it belongs to."""

    kind: npt.NDArray[np.int8]

    @property
    def robot(self) -> npt.NDArray[np.bool_]:
        """Whether each click (n,) was made by a robot."""
        robot: npt.NDArray[np.bool_] = self.kind != KINDS.index(HUMAN)
        return robot

    def counts(self) -> dict[str, int]:
        """Clicks of each kind."""
        return dict(zip(KINDS, np.bincount(self.kind, minlength=len(KINDS)).tolist(), strict=True))

    def robots_among(self, clicks: Sequence[Click]) -> set[bytes]:
        """The ids of robotic clicks, given all clicks of the traffic in its order."""
        return {click.click_id for click, robot in zip(clicks, self.robot, strict=True) if robot}
