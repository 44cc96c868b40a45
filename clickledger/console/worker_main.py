"""The scoring worker's process: `python -m clickledger.console.worker_main`.

One line an event on stderr. SIGTERM and SIGINT finish the batch in hand. Ends with the error's exit code where waiting
does not help; servers that do not answer are waited for once it has started.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path

from threadpoolctl import threadpool_limits

from clickledger import settings as settings_
from clickledger.console import intake_settings, services
from clickledger.errors import ClickledgerError
from clickledger.ledger import database
from clickledger.ledger.rights import Role
from clickledger.scoring import bootstrap
from clickledger.scoring.worker import Worker, WorkerConfig
from clickledger.settings import Settings

logger = logging.getLogger("clickledger.worker")
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # one of these is there where torch could find a device


def main() -> int:
    """Run one worker until it is told to end; the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    threadpool_limits(1)  # a batch takes less than a millisecond: threads would only get in each other's way
    try:
        worker = Worker(configuration(services.attach(settings_.load())))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        worker.run()
    except ClickledgerError as error:
        logger.error("ended: %s: %s", type(error).__name__, error)
        return error.exit_code
    logger.info("ended")
    return 0


def configuration(settings: Settings) -> WorkerConfig:
    """The worker's configuration; gives a new ledger its first deployment. Raises Unavailable, Refused."""
    database_url = str(settings.database_url)
    with database.connect(database_url, role=Role.SCORER) as conn:
        new = bootstrap.is_new(conn)
    if new:  # a scorer may not deploy
        with database.connect(database_url, role=Role.REPLAYER) as conn:
            bootstrap.ensure_first_deployment(conn)
    return WorkerConfig(
        name=os.environ.get(f"{settings_.PREFIX}PROCESS") or f"scoring-{socket.gethostname()}-{secrets.token_hex(4)}",
        database_url=database_url,
        redis_url=str(settings.redis_url),
        batch_clicks_max=settings.worker_batch_clicks_max,
        claim_idle_ms=int(settings.claim_idle_seconds * 1000),
        restore_at_once_max=settings.restore_at_once_max,
        device=_device(settings.device),
        bounds=intake_settings.bounds(settings),
    )


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    if not any(Path(node).exists() for node in ACCELERATORS):
        return "cpu"
    import torch  # noqa: PLC0415 - takes 2 s and 200 MB, which a worker without an accelerator need not pay

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(main())
