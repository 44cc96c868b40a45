"""Tables of facts: registered by digest, in force by a deployment, and never gone beneath a model that reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import redis
from counting_ledger import Serving, hours_of_clicks
from decided_traffic import STABLE_LIMIT, Versions, deploy, register
from flagging import FLAGS, OTHER, TABLE, deploy_table, flag_model, flagged, register_flag_model, register_table

from clickledger import errors
from clickledger.ledger import audit, database, deployments, fact_tables, log, rebuild, rights
from clickledger.recovery import rollback
from clickledger.scoring import facts, facts_deployment, feature_spec, networks, recount, rescore, shadowing, velocity
from clickledger.scoring import model as models_
from clickledger.scoring.click import Click
from clickledger.scoring.counters import Counted, FeatureCounter
from clickledger.scoring.deciding import MODEL_UNUSABLE, Decider
from clickledger.scoring.networks import NO_FACTS, AddressFacts


@pytest.fixture
def stable(conn: database.Connection) -> Versions:
    """A ledger where a rule decides that reads no facts."""
    versions = register(conn, STABLE_LIMIT)
    deploy(conn, versions)
    return versions


def recorded(conn: database.Connection) -> list[tuple[int, int | None]]:
    """Schema and flag of every snapshot, in counting order."""
    rows = conn.execute("SELECT feature_schema, features FROM clicks ORDER BY seq").fetchall()
    found = []
    for schema, snapshot in rows:
        values = feature_spec.unpack_snapshots([bytes(snapshot)], schema)[0].tolist()
        named = dict(zip(feature_spec.SCHEMAS[schema], values, strict=True))
        found.append((schema, named.get("data_centre")))
    return found


def follow(serving: Serving) -> None:
    serving.decider.follow(serving.conn)


def test_a_table_is_an_entry_with_its_digest_and_its_file_to_the_byte(conn: database.Connection) -> None:
    version = register_table(conn)
    entry = log.entry(conn, version)
    digest = hashlib.sha256(TABLE).hexdigest()
    expected = {"name": "data_centre_networks", "version": version, "digest": digest, "rows": 1}
    assert (entry.kind, entry.payload) == ("fact_table_set", expected)
    assert (entry.actor, entry.reason) == ("tests", "a list")
    assert fact_tables.load(conn, version) == (version, "data_centre_networks", TABLE)
    assert audit.verify(conn).ok


def test_the_same_file_keeps_its_version_and_another_gets_its_own(conn: database.Connection) -> None:
    first, other = register_table(conn), register_table(conn, OTHER)
    head = log.head(conn)
    assert register_table(conn) == first != other
    assert log.head(conn) == head
    assert [table["version"] for table in fact_tables.listed(conn)] == [other, first]


def test_a_table_that_nothing_reads_and_a_version_that_is_none_are_refused(
    conn: database.Connection, stable: Versions
) -> None:
    with pytest.raises(errors.InvalidInput, match="expected one of data_centre_networks, got 'vpn'"):
        facts.register(conn, "vpn", TABLE, actor="tests", reason="")
    with pytest.raises(errors.InvalidInput, match="line 1: network"):
        register_table(conn, b"nonsense")
    assert fact_tables.listed(conn) == []
    for version in (deployments.current(conn).position, 10**6):
        with pytest.raises(errors.NotFound, match=f"no table of facts with version {version}"):
            facts_deployment.put_in_force(conn, version, actor="tests", reason="")
        with pytest.raises(errors.NotFound, match=f"no table of facts with version {version}"):
            deployments.deploy(conn, {**deployments.current(conn).routing, "facts_version": version}, "tests")
        with pytest.raises(errors.NotFound, match=f"no table of facts with version {version}"):
            fact_tables.entry(conn, version)
    assert deployments.current(conn).epoch == 1


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match=r"networks file .*: expected a readable file, got: No such file"):
        facts.read_file(tmp_path / "absent")


def test_a_table_needs_a_deployment_to_be_in_force_under(conn: database.Connection) -> None:
    with pytest.raises(errors.Refused, match="expected a deployment to record facts under, got none"):
        facts_deployment.put_in_force(conn, register_table(conn), actor="tests", reason="")


def test_intakes_follow_the_table_in_force_and_keep_what_they_hold(conn: database.Connection, stable: Versions) -> None:
    assert facts.in_force(conn) is NO_FACTS
    held = deploy_table(conn)
    assert facts.in_force(conn, held) is held
    other = deploy_table(conn, OTHER)
    assert facts.in_force(conn, held) == other != held
    assert [table.data_centre("192.0.2.200") for table in (held, other)] == [1, 0]
    facts_deployment.put_in_force(conn, 0, actor="tests", reason="over")
    assert facts.in_force(conn, other) is NO_FACTS
    assert "facts_version" not in deployments.current(conn).routing
    assert not rebuild.differences(conn)


@pytest.mark.parametrize("role", [rights.Role.INGESTER, rights.Role.BILLING_READER, rights.Role.SCORER])
def test_whoever_takes_clicks_in_may_read_the_table_in_force_and_none_may_register_one(
    conn: database.Connection, stable: Versions, database_url: str, role: rights.Role
) -> None:
    made = deploy_table(conn)
    with database.connect(database_url, role=role) as own:
        assert facts.in_force(own) == made
        with pytest.raises(errors.Refused, match="permission denied"):
            register_table(own, OTHER)


def test_snapshots_have_a_flag_only_where_the_deployment_names_the_table_it_is_of(
    conn: database.Connection, stable: Versions, redis_client: redis.Redis
) -> None:
    serving = Serving(conn, redis_client)
    times = [each.event_time_ms for each in hours_of_clicks(0, 90)]
    serving.serve(flagged(0, 9, NO_FACTS, times[:9]))
    first = deploy_table(conn)
    serving.serve(flagged(9, 9, first, times[9:18]))  # the worker has not followed yet
    follow(serving)
    serving.serve(flagged(18, 9, first, times[18:27]))
    serving.serve(flagged(27, 9, NO_FACTS, times[27:36]))  # an intake that has not followed yet
    second = deploy_table(conn, OTHER)
    follow(serving)
    serving.serve(flagged(36, 9, first, times[36:45]))
    serving.serve(flagged(45, 9, second, times[45:54]))
    facts_deployment.put_in_force(conn, 0, actor="tests", reason="over")
    follow(serving)
    serving.serve(flagged(54, 9, second, times[54:63]))
    # By batches: no table, a worker behind, the table, an intake behind, another table, that table, none again.
    expected = [(1, None)] * 18 + [(2, flag) for flag in FLAGS] * 3 + [(2, -1)] * 18
    expected += [(2, flag) for flag in FLAGS] * 3 + [(1, None)] * 9
    assert recorded(conn) == expected
    assert rescore.sample(conn).ok
    again = recount.verify(conn)
    assert (again.recounted, again.exact, again.skipped) == (63, 63, 0)


def test_snapshots_without_a_table_are_what_they_were_to_the_byte(
    conn: database.Connection, stable: Versions, redis_client: redis.Redis
) -> None:
    """Clicks carry a flag that no deployment asks for: the row is the row of a click without one."""
    serving = Serving(conn, redis_client)
    times = [each.event_time_ms for each in hours_of_clicks(0, 9)]
    sent = flagged(0, 9, AddressFacts(7, networks.parse(TABLE)), times)
    looked_up = serving.decider.decide_batch(sent, counted(redis_client, sent), 1)
    plain = serving.decider.decide_batch(flagged(0, 9, NO_FACTS, times), counted(redis_client, sent), 1)
    assert looked_up.features == plain.features and looked_up.feature_schema == plain.feature_schema == 1
    assert looked_up.score.tobytes() == plain.score.tobytes()


def counted(client: redis.Redis, sent: list[Click]) -> Counted:
    return FeatureCounter(client, 1).count(sent)


def test_a_model_of_facts_waits_for_a_table_and_keeps_it_in_force(conn: database.Connection, stable: Versions) -> None:
    flag = register_flag_model(conn)
    wanted = (
        "it reads snapshots of schema 2, expected one that those recorded now feed: 1; deploy a table of facts first"
    )
    for refused in (
        lambda: shadowing.enter(conn, *flag, actor="tests"),
        lambda: shadowing.require_model_fed(conn, flag[0]),
    ):
        with pytest.raises(errors.Refused, match=wanted):
            refused()
    deploy_table(conn)
    shadowing.require_model_fed(conn, flag[0])
    for enter in (
        lambda: shadowing.enter(conn, *flag, actor="tests"),
        lambda: deployments.promote(conn, *flag, "tests"),
    ):
        enter()
        with pytest.raises(errors.Refused, match=rf"model {flag[0]} in (routes|shadow): {wanted}"):
            facts_deployment.put_in_force(conn, 0, actor="tests", reason="")
    deploy_table(conn, OTHER)  # another table is no less
    rollback.roll_back(conn, flag[0], "tests")
    facts_deployment.put_in_force(conn, 0, actor="tests", reason="")


def test_no_change_of_models_changes_the_table(conn: database.Connection, stable: Versions) -> None:
    other = register(conn, STABLE_LIMIT + 1)
    version = deploy_table(conn).version
    deployments.promote(conn, *other, "tests")
    assert deployments.current(conn).routing["facts_version"] == version
    deployments.amend(conn, lambda before: deployments.with_canary(before, *stable, 0.1), "tests")
    assert deployments.current(conn).routing["facts_version"] == version
    rollback.roll_back(conn, stable[0], "tests")
    assert deployments.current(conn).routing["facts_version"] == version


def test_a_rollback_to_an_earlier_deployment_keeps_the_table_of_now(
    conn: database.Connection, stable: Versions
) -> None:
    """The deployment that it goes back to had none; candidates of now may need the one there is."""
    flag, bad = register_flag_model(conn), register(conn, STABLE_LIMIT + 1)
    table = deploy_table(conn)
    shadowing.enter(conn, *flag, actor="tests")
    routing = deployments.current(conn).routing
    deployments.deploy(
        conn, {**routing, "routes": [{"slice": "*", "share": 1.0, "model": bad[0], "calibration": bad[1]}]}, "tests"
    )
    rollback.roll_back(conn, bad[0], "tests")
    now = deployments.current(conn).routing
    assert now["routes"][0]["model"] == stable[0] and now["facts_version"] == table.version
    assert deployments.in_shadow(now) == [{"model": flag[0], "calibration": flag[1]}]


def test_a_model_of_facts_is_no_way_back_once_its_table_is_gone(conn: database.Connection, stable: Versions) -> None:
    flag, bad = register_flag_model(conn), register(conn, STABLE_LIMIT + 1)
    table = deploy_table(conn)
    route = {"slice": "*", "share": 1.0}
    deployments.deploy(
        conn,
        {
            "routes": [{**route, "model": flag[0], "calibration": flag[1]}],
            "shadow": None,
            "facts_version": table.version,
        },
        "tests",
    )
    deploy(conn, bad)
    chosen = rollback.choose(conn, bad[0])
    assert chosen.model_version == stable[0]
    assert any("reads snapshots of schema 2, those recorded now are of 1" in one.why for one in chosen.considered)


def test_a_model_that_snapshots_do_not_feed_leaves_its_clicks_undecided(
    conn: database.Connection, stable: Versions, redis_client: redis.Redis
) -> None:
    """Only somebody who goes around all refusals gets there: nothing is lost, and nothing is decided on less."""
    flag = register_flag_model(conn)
    route = {"slice": "*", "share": 1.0, "model": flag[0], "calibration": flag[1]}
    beside = {"model": flag[0], "calibration": flag[1]}
    deployments.deploy(conn, {"routes": [route], "shadow": beside}, "tests")
    decider = Decider()
    decider.follow(conn)
    Serving(conn, redis_client)  # opens the counters
    sent = flagged(0, 6, NO_FACTS)
    found = counted(redis_client, sent)
    batch = decider.decide_batch(sent, found, 1)
    assert set(batch.reason) == {MODEL_UNUSABLE} and set(batch.verdict) == {"undecided"}
    assert decider.shadows(batch, found, range(6)) == []


def test_a_model_reads_the_beginning_of_longer_snapshots_and_refuses_shorter_ones() -> None:
    random = np.random.default_rng(1)
    features = random.integers(-1, 60, (300, 23)).astype(np.int32)
    rule = velocity.velocity_model()
    assert rule.score(features).tobytes() == rule.score(features[:, :22].copy()).tobytes()
    flag = flag_model()
    again = models_.from_artefact(models_.to_artefact(flag))
    features[:, 22] = random.integers(-1, 2, 300)
    assert again.feature_schema == 2
    assert (again.score(features) == np.where(features[:, 22] == 1, 1.0, -1.0)).all()
    with pytest.raises(errors.InvalidInput, match=r"expected shape \(n, 23 or more\), got \(300, 22\)"):
        again.score(features[:, :22])


def test_a_table_whose_content_was_changed_is_found_by_the_audit(conn: database.Connection, stable: Versions) -> None:
    version = register_table(conn)
    conn.execute("ALTER TABLE artefacts DISABLE TRIGGER USER, DROP CONSTRAINT artefacts_check")
    conn.execute("UPDATE artefacts SET content = %s WHERE content = %s", (OTHER, TABLE))
    with pytest.raises(errors.InvariantBroken, match=f"table of facts {version}: expected content of digest"):
        facts.load(conn, version)
    assert f"table of facts {version}: its content is not the one that was registered" in "\n".join(
        audit.verify(conn).failures["artefacts"]
    )
