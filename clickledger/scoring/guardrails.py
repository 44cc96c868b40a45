"""Guardrails on data: what a set is judged by before anything is trained on it; and overrides of any guardrail.

Invariants:
- a guard is a function of evidence alone, and says its figure, its limit and whether it passed;
- what guards say is an entry with all figures, whether its subject passes or is refused; so is an override, which names
  the subject, the guards it is for, and a second person;
- an override is for one subject, a set by its digest or a model with its calibration (`behaviour`): any other is judged
  by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clickledger.errors import InvalidInput, Refused
from clickledger.ledger import database, log
from clickledger.scoring import dataset, guards_of_feeds, guards_of_labels, guards_of_learning
from clickledger.scoring.dataset import Assembled
from clickledger.scoring.findings import DAY_MS, DEFAULT_LIMITS, Finding, Limits
from clickledger.scoring.guards_of_feeds import Day, Days
from clickledger.scoring.recipe import Recipe

DATA, BEHAVIOUR = "data", "behaviour"  # subjects; entries of before there were two name none and mean data
NAMES: dict[str, tuple[str, ...]] = {
    DATA: ("dataset_position", "digest"),
    BEHAVIOUR: ("model_version", "calibration_version"),
}

# Days counted back from the end of the set. Live decisions: what was late stays late whatever corrected it since.
SELECT_DAYS = """
    SELECT (%(end_ms)s - 1 - click_time_ms(click_id)) / %(day_ms)s, count(*),
           count(*) FILTER (WHERE verdict = 'undecided')
    FROM decisions
    WHERE log_position > %(after)s AND log_position <= %(up_to)s AND click_id < smallest_click_id(%(end_ms)s)
    GROUP BY 1"""


@dataclass(frozen=True)
class Guarding:
    """By what a set is judged before it is trained on; `overridden`: the position of an override for this very set."""

    limits: Limits = DEFAULT_LIMITS
    overridden: int | None = None


DEFAULT_GUARDING = Guarding()


@dataclass(frozen=True, eq=False)
class Evidence:
    """What guards look at."""

    assembled: Assembled
    end_ms: int  # clicks from here on are not in the set
    cutoff_ms: int  # of labels
    days: Days
    weights: npt.NDArray[np.float32]  # (n,) that a trainer would use


def gather(conn: database.Connection, recipe: Recipe, made: Assembled, weights: npt.NDArray[np.float32]) -> Evidence:
    """The evidence about a set that `dataset.gather` gave for a recipe."""
    bounds = {
        "after": recipe.after_position,
        "up_to": recipe.up_to_position,
        "end_ms": recipe.end_ms,
        "day_ms": DAY_MS,
    }
    rows = conn.execute(SELECT_DAYS, bounds).fetchall()
    days = {int(back): Day(clicks, undecided) for back, clicks, undecided in rows}
    return Evidence(made, recipe.end_ms, recipe.label_cutoff_ms, days, weights)


def check_dataset(evidence: Evidence, limits: Limits = DEFAULT_LIMITS) -> list[Finding]:
    """What every guard of data says of a set, in the order of its table; pure."""
    made, built = evidence.assembled, evidence.assembled.dataset
    cutoff_ms, end_ms = evidence.cutoff_ms, evidence.end_ms
    clicked, occurred = made.outcomes.clicked_at_ms, made.outcomes.occurred_at_ms
    return [
        guards_of_labels.human_density(built, end_ms, limits),
        guards_of_feeds.feed_lag(occurred, cutoff_ms, limits),
        guards_of_feeds.arrivals(occurred, cutoff_ms, limits),
        guards_of_labels.label_age(built, cutoff_ms, limits),
        guards_of_labels.label_maturity(built, clicked, occurred, cutoff_ms, limits),
        guards_of_feeds.volume(evidence.days, limits),
        guards_of_feeds.null_features(built, end_ms, limits),
        guards_of_feeds.undecided(evidence.days, limits),
        guards_of_labels.account_labels(built, made.users, made.capped, limits),
        guards_of_labels.ip_labels(built, made.ip, made.ips, limits),
        guards_of_labels.campaign_labels(built, made.campaign, made.campaigns, limits),
        guards_of_learning.effective_sample(evidence.weights, limits),
        guards_of_learning.largest_weight(evidence.weights, limits),
        guards_of_learning.drift(built, end_ms, limits),
        guards_of_learning.feature_leak(built, limits),
    ]


def enforce(
    conn: database.Connection,
    findings: Sequence[Finding],
    built: log.Entry,
    *,
    actor: str,
    reason: str = "",
    guarding: Guarding,
) -> log.Entry:
    """Record `guardrails_passed` for a set, given its `dataset_built` entry, or `guardrail_refused` and raise Refused.

    A set with an override passes if the override is for its digest and for every guard that refuses it, and the two who
    stand for it are two.
    """
    refusing = [finding for finding in findings if not finding.passed]
    names, digest = [finding.guard for finding in refusing], built.payload["digest"]
    payload: dict[str, Any] = {
        "subject": DATA,
        "dataset_position": built.position,
        "digest": digest,
        "refusing": names,
        "overridden": guarding.overridden,
        "findings": [finding.to_payload() for finding in findings],
        "limits": asdict(guarding.limits),
    }
    if refusing and guarding.overridden is not None:
        _check_override(conn, guarding.overridden, digest, names, actor)
    if not refusing or guarding.overridden is not None:
        return log.record(conn, "guardrails_passed", payload, actor, reason)
    raise refusal(log.record(conn, "guardrail_refused", payload, actor, reason))


def refusal(entry: log.Entry) -> Refused:
    """What an entry `guardrail_refused` says, as the error it was."""
    found = [Finding(**told) for told in entry.payload["findings"]]
    told = "; ".join(finding.sentence() for finding in found if not finding.passed)
    position = entry.payload["dataset_position"]
    return Refused(f"data set of entry {position} refused by guardrails, entry {entry.position}: {told}")


def override(conn: database.Connection, refused_position: int, *, actor: str, reason: str) -> log.Entry:
    """A second person lets a refused set, or model with its calibration, pass: the entry `guardrail_overridden`.

    Raises NotFound, InvalidInput for another kind of entry or no reason, Refused when the actor is the one refused.
    """
    refused = _entry(conn, refused_position, "guardrail_refused")
    if not reason.strip():
        raise InvalidInput(f"reason: expected why the refusal of entry {refused_position} is overridden, got none")
    if actor == refused.actor:
        raise Refused(f"override of entry {refused_position}: expected a second person, got {actor} again")
    subject = subject_of(refused)
    payload = {
        "subject": subject,
        "refused_position": refused_position,
        "refused_actor": refused.actor,
        **{name: refused.payload[name] for name in (*NAMES[subject], "refusing")},
    }
    return log.record(conn, "guardrail_overridden", payload, actor, reason)


def overridden_recipe(conn: database.Connection, position: int) -> Recipe:
    """The recipe of the set that an override is for. Raises NotFound, InvalidInput for another kind of entry."""
    given = _override_of_data(conn, position)
    return dataset.recipe_of(conn, given.payload["dataset_position"])


def _check_override(conn: database.Connection, position: int, digest: str, names: Sequence[str], actor: str) -> None:
    given = _override_of_data(conn, position)
    if given.actor == actor:
        raise Refused(f"override of entry {position}: expected a second person to train, got {actor} again")
    if given.payload["digest"] != digest:
        raise Refused(f"override of entry {position}: expected the set {given.payload['digest']}, got {digest}")
    if missing := sorted(set(names) - set(given.payload["refusing"])):
        raise Refused(f"override of entry {position} is for {given.payload['refusing']}: refused by {missing} as well")


def subject_of(entry: log.Entry) -> str:
    """What the guards of an entry judged."""
    return str(entry.payload.get("subject", DATA))


def _override_of_data(conn: database.Connection, position: int) -> log.Entry:
    given = _entry(conn, position, "guardrail_overridden")
    if (subject := subject_of(given)) != DATA:
        raise InvalidInput(f"entry {position}: expected an override for a data set, got one for {subject}")
    return given


def _entry(conn: database.Connection, position: int, kind: str) -> log.Entry:
    entry = log.entry(conn, position)
    if entry.kind != kind:
        raise InvalidInput(f"entry {position}: expected kind {kind}, got {entry.kind}")
    return entry
