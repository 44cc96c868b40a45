"""A ledger of which one click has everything a proof bundle can tell, for the tests of bundles."""

from __future__ import annotations

from typing import Any, NamedTuple

import batches
import replays

from clickledger import verify_bundle
from clickledger.ledger import (
    append,
    canonical,
    checkpoint_keys,
    database,
    deployments,
    proof_bundle,
    signed_note,
)

FORGED = "adv-é\x1b[A\nsigned by nobody"  # letters that not every terminal has, and an attempt to write a line of ours
ROWS = [
    batches.Row(
        batches.click_id(batches.at("2024-03-10", n), n),
        score=-0.5,
        external_id=f"é-{n}",
        advertiser_id=FORGED,
        logged_in=None,
    )
    for n in range(12)
]
CLICK = ROWS[3]


class Ledger(NamedTuple):
    """A ledger with one click of which everything is known, and the key of its checkpoints."""

    conn: database.Connection
    key: signed_note.SigningKey
    run_id: int
    position: int

    @property
    def trusted(self) -> list[verify_bundle.Key]:
        return [verify_bundle.key(str(self.key.verifier))]

    def bundle(self, *, signed: bool = True) -> proof_bundle.Bundle:
        return proof_bundle.build(self.conn, CLICK.uuid, self.key if signed else None, "tests")


def decided_and_corrected(conn: database.Connection) -> Ledger:
    """Twelve clicks of a deployed model in two entries; a published run takes six of them for robots."""
    key = signed_note.generate(checkpoint_keys.origin(conn))
    checkpoint_keys.announce(conn, key, "tests")
    versions = replays.model(conn)
    epoch = deployments.deploy(conn, replays.routing(*versions), "tests", "")
    decided: dict[str, Any] = {"model_version": versions[0], "calibration_version": versions[1]}
    rows = [batches.Row(**{**vars(row), **decided}) for row in ROWS]
    positions = [
        append.append(conn, batches.batch(part, epoch=epoch), actor="tests").position for part in (rows[:6], rows[6:])
    ]
    assert positions[0] is not None
    run_id = replays.published(conn, positions[0], positions[0] + 2, {row.click_id: "invalid" for row in ROWS[:6]})
    return Ledger(conn, key, run_id, positions[0])


def verified(ledger: Ledger, bundle: proof_bundle.Bundle, **options: Any) -> dict[str, Any]:
    """The statement of a bundle that verifies."""
    return verify_bundle.verify(bundle.text, ledger.trusted, **options).statement


def spelled(fields: dict[str, Any]) -> str:
    """The text of a bundle."""
    return canonical.canonical_json(fields) + "\n"
