"""What intake needs to know, from the settings."""

from __future__ import annotations

from datetime import UTC, datetime, time

from clickledger.scoring import pseudonym_key
from clickledger.scoring.intake_fields import Bounds
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.settings import Settings


def bounds(settings: Settings) -> Bounds:
    """What intake accepts."""
    genesis = datetime.combine(settings.genesis, time(), UTC)
    return Bounds(
        genesis_ms=int(genesis.timestamp()) * 1000, future_tolerance_ms=int(settings.future_tolerance_seconds * 1000)
    )


def pseudonyms(settings: Settings) -> Pseudonyms:
    """Pseudonyms under the installation's key. Raises InvalidSetting."""
    return Pseudonyms(pseudonym_key.of(settings))
