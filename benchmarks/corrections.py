"""A ledger with a bad model's decisions to replay: every click withheld, where a stable one charges it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks import models
from benchmarks.ground import say
from benchmarks.models import ACTOR
from benchmarks.traffic import Traffic
from clickledger.ledger import append, database
from clickledger.ledger.records import Batch
from clickledger.scoring import velocity

NEVER = 1e6  # a threshold in logits that no score reaches
BATCH_CLICKS = 4096  # larger than a worker's: filling the ledger is not what is measured


class Mistaken:
    """Appends clicks that were all withheld; the stable network would have charged every one of them."""

    def __init__(self, conn: database.Connection) -> None:
        self._conn = conn
        self._bad = models.register(conn, velocity.velocity_model(1), -NEVER)
        self.stable = models.register(conn, models.network(), NEVER)
        self.epoch = models.deploy(conn, self._bad)
        self._traffic = Traffic(deployment_epoch=self.epoch)

    def append(self, clicks: int, batch_clicks: int = BATCH_CLICKS) -> tuple[int, int]:
        """The log positions [lo, hi) of that many further clicks."""
        say(f"filling the ledger with {clicks:,} withheld clicks")
        positions = []
        for start in range(0, clicks, batch_clicks):
            batch = self._withheld(self._traffic.batch(min(batch_clicks, clicks - start)))
            positions.append(append.append(self._conn, batch, actor=ACTOR).position or 0)
        return positions[0], positions[-1] + 1

    def _withheld(self, batch: Batch) -> Batch:
        n = len(batch)
        return replace(
            batch,
            model_version=np.full(n, self._bad.model, np.int32),
            calibration_version=np.full(n, self._bad.calibration, np.int32),
            threshold=np.full(n, -NEVER, np.float32),
            verdict=["invalid"] * n,
        )
