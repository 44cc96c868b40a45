"""Every error clickledger raises on purpose.

    ClickledgerError                 exit code
    ├── InvariantBroken                  1     a rule of the ledger does not hold; stop and look
    ├── VerificationFailed               1     a proof, digest or re-scored row does not match
    ├── InvalidInput                     2     what was given cannot be used; names the field, expected and got
    │   └── InvalidSetting               2
    ├── NotFound                         2     no such click, run, model, incident
    ├── Refused                          3     legal to ask, not allowed now (a cap, a guardrail, no confirmation)
    ├── Conflict                         4     the world is not as the caller believed
    │   ├── RevokedDeployment            4     the batch was decided under an epoch that was rolled back
    │   ├── LostCounters                 4     the batch was counted under a counter epoch that is gone
    │   └── StalePlan                    4     the comparison or plan no longer describes the ledger
    │       └── OutdatedRun              4     nor does the run itself, by what it carries or who decided: plan again
    └── Unavailable                      5     a server or worker does not answer

Messages are lower case and say what was expected and what came, with ids.
"""

from __future__ import annotations


class ClickledgerError(Exception):
    """Base of all; `exit_code` is what a command ends with when it is not handled."""

    exit_code = 1


class InvariantBroken(ClickledgerError):
    """A rule that must always hold does not."""


class VerificationFailed(ClickledgerError):
    """A proof, digest or re-scored row does not match what the ledger says."""


class InvalidInput(ClickledgerError):
    """The caller's input cannot be used."""

    exit_code = 2


class InvalidSetting(InvalidInput):
    """A setting from the environment or a file cannot be used."""


class NotFound(ClickledgerError):
    """What was asked for does not exist."""

    exit_code = 2


class Refused(ClickledgerError):
    """The request is well formed but not allowed now."""

    exit_code = 3


class Conflict(ClickledgerError):
    """The world is not as the caller believed."""

    exit_code = 4


class RevokedDeployment(Conflict):
    """The batch names a deployment epoch that a rollback revoked; decide again under `current_epoch`."""

    def __init__(self, message: str, current_epoch: int | None = None) -> None:
        super().__init__(message)
        self.current_epoch = current_epoch


class LostCounters(Conflict):
    """The batch was counted under a counter epoch that is no longer in force; count again."""


class StalePlan(Conflict):
    """The plan or comparison no longer describes the ledger; compare again."""


class OutdatedRun(StalePlan):
    """The run carries decisions that were replaced since it was planned; plan again."""


class Unavailable(ClickledgerError):
    """A server or worker does not answer."""

    exit_code = 5
