"""The recipe of a training set: all that it is made from, besides the ledger; stated in the set's entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clickledger.scoring import feature_spec, labels
from clickledger.scoring.labels import LabelRules, Stretch


@dataclass(frozen=True)
class Recipe:
    """All that a set is made from, besides the ledger."""

    up_to_position: int
    label_cutoff_ms: int
    after_position: int = 0
    rules: LabelRules = labels.AS_RECORDED
    withheld: tuple[Stretch, ...] = ()
    feature_schema: int = feature_spec.SCHEMA_VERSION

    @property
    def end_ms(self) -> int:
        """Clicks from this event time on are too young; what has happened by the cut-off is known of all before."""
        return self.label_cutoff_ms - self.rules.maturity_ms

    def to_payload(self) -> dict[str, Any]:
        """JSON values for the entry of the set."""
        return {
            "after_position": self.after_position,
            "up_to_position": self.up_to_position,
            "label_cutoff_ms": self.label_cutoff_ms,
            "feature_schema": self.feature_schema,
            "withheld": [list(stretch) for stretch in self.withheld],
            "rules": self.rules.to_payload(),
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Recipe:
        """The recipe an entry states; entries of version 0.1.0 state no rules and mean those of that version."""
        return cls(
            up_to_position=payload["up_to_position"],
            label_cutoff_ms=payload["label_cutoff_ms"],
            after_position=payload["after_position"],
            rules=LabelRules.from_payload(payload.get("rules")),
            withheld=tuple((start, end) for start, end in payload["withheld"]),
            feature_schema=payload["feature_schema"],
        )
