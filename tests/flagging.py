"""A table of data centres, clicks that were looked up in it, and a model that reads nothing else, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from live_clicks import click
from msgspec import structs

from clickledger.ledger import database, deployments
from clickledger.scoring import facts, facts_deployment, transform
from clickledger.scoring import model as models_
from clickledger.scoring.click import Click
from clickledger.scoring.networks import AddressFacts

TABLE, OTHER = b"192.0.2.0/24\n", b"198.51.100.0/24\n192.0.2.0/25\n"
ADDRESSES = ("192.0.2.7", "203.0.113.1", "opaque")  # in a data centre, not in one, no address
FLAGS = (1, 0, -1)


def register_table(conn: database.Connection, content: bytes = TABLE) -> int:
    """Register a table; its version."""
    return facts.register(conn, facts.DATA_CENTRE_NETWORKS, content, actor="tests", reason="a list")


def deploy_table(conn: database.Connection, content: bytes = TABLE) -> AddressFacts:
    """Register a table and put it in force: what an intake looks addresses up in."""
    version = register_table(conn, content)
    facts_deployment.put_in_force(conn, version, actor="tests", reason="in force")
    return facts.in_force(conn)


def flagged(first: int, count: int, looked_up: AddressFacts, time_ms: Sequence[int] = ()) -> list[Click]:
    """Clicks as `live_clicks` makes them, from `ADDRESSES` in turns, looked up in a table."""
    made = [click(first + i, time_ms=time_ms[i] if time_ms else None) for i in range(count)]
    return [
        structs.replace(
            each,
            facts_version=looked_up.version,
            data_centre=looked_up.data_centre(ADDRESSES[(first + i) % len(ADDRESSES)]),
        )
        for i, each in enumerate(made)
    ]


def flag_model() -> models_.Model:
    """Robotic is what comes from a data centre: logit 1 there, -1 elsewhere."""
    columns = transform.columns_of(2)
    weight = np.zeros((len(columns), 1), dtype=np.float32)
    weight[columns.index("data_centre=1")] = 2.0
    unit = transform.Transform(np.zeros(len(columns), np.float32), np.ones(len(columns), np.float32))
    bias = np.array([-1.0], dtype=np.float32)
    return models_.Model("logistic_regression", unit, ((weight, bias),), {"rule": "flag"}, feature_schema=2)


def register_flag_model(conn: database.Connection) -> tuple[int, int]:
    """Its version, and that of its calibration."""
    version = deployments.register_model(conn, models_.to_artefact(flag_model()), "logistic_regression", {}, "tests")
    return version, deployments.set_calibration(conn, version, {"*": 0.0}, {}, "tests")
