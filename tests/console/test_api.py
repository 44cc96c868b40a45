"""The HTTP API over real HTTP, in front of a real worker process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
import uvicorn
from worker_processes import Workers, until, workers

from clickledger import settings
from clickledger.console import api
from clickledger.errors import Refused
from clickledger.ledger import billing, database, retention
from clickledger.scoring import stream


def fields(number: int, **changes: object) -> dict[str, object]:
    return {
        "click_id": f"click-{number}",
        "event_time": f"2026-03-01T10:{number // 60:02d}:{number % 60:02d}Z",
        "user_id": f"user-{number % 5}",
        "ip": "192.0.2.1",
        "advertiser_id": "shop",
        "campaign_id": "spring",
        "cost_micros": 250_000,
        **changes,
    }


@contextmanager
def serving(**given: Any) -> Iterator[httpx.Client]:
    """The app behind a real server on a free port."""
    config = uvicorn.Config(api.create_app(settings.load(**given)), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, "the API to serve")
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def fleet(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    with workers(database_url, redis_url, tmp_path) as made:
        made.start("scoring-1")
        yield made


@pytest.fixture
def alone(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    """An API that no worker answers: for requests of which nothing comes to one."""
    with serving(home=tmp_path, database_url=database_url, redis_url=redis_url, answer_seconds_max=60) as made:
        yield made


@pytest.fixture
def client(fleet: Workers, database_url: str, redis_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    with serving(home=tmp_path, database_url=database_url, redis_url=redis_url, answer_seconds_max=60) as made:
        yield made


def test_click_is_answered_after_commit_and_its_decision_can_be_read(client: httpx.Client) -> None:
    answer = client.post("/v1/clicks", json=fields(1))
    assert answer.status_code == 200
    [decision] = answer.json()["decisions"]
    assert (decision["outcome"], decision["verdict"], decision["index"]) == ("new", "valid", 0)
    stored = client.get(f"/v1/decisions/{decision['click_id']}").json()
    assert (stored["log_position"], stored["verdict"]) == (decision["position"], "valid")


def test_bad_clicks_of_a_list_are_named_by_index_and_field_and_good_ones_decided(client: httpx.Client) -> None:
    body = [fields(1), fields(2, cost_micros=-1), fields(1), "no click", fields(1, cost_micros=7), fields(3)]
    answer = client.post("/v1/clicks", json=body).json()
    assert [(d["index"], d["outcome"]) for d in answer["decisions"]] == [
        (0, "new"), (2, "repeat"), (4, "conflict"), (5, "new"),
    ]  # fmt: skip
    assert [(r["index"], r["field"]) for r in answer["rejected"]] == [(1, "cost_micros"), (3, "row")]


def test_click_that_the_ledger_does_not_take_is_rejected_by_index_like_one_that_is_none(
    client: httpx.Client, conn: database.Connection
) -> None:
    gone = {"event_time": "2024-03-10T10:00:00Z"}
    assert client.post("/v1/clicks", json=fields(1, **gone)).status_code == 200
    billing.close_period(conn, "2024-03", "tests")
    retention.detach(conn, date(2024, 3, 10), "tests", "13 months")

    answer = client.post("/v1/clicks", json=fields(2, **gone))
    [rejected] = answer.json()["rejected"]
    assert (answer.status_code, answer.json()["decisions"]) == (422, [])
    assert (rejected["index"], rejected["field"]) == (0, "click") and "2024-03-10" in rejected["got"]
    mixed = client.post("/v1/clicks", json=[fields(2, **gone), fields(3, cost_micros=-1), fields(4)])
    assert [r["index"] for r in mixed.json()["rejected"]] == [0, 1]
    assert (mixed.status_code, [d["index"] for d in mixed.json()["decisions"]]) == (200, [2])


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v1/billing/entries?limit=abc", 422, "limit: Input should be a valid integer"),
        ("/v1/nothing", 404, "Not Found"),
        ("/docs", 404, "Not Found"),
        ("/v1/clicks", 405, "Method Not Allowed"),
    ],
)
def test_what_no_route_takes_is_an_error_of_the_same_form(
    alone: httpx.Client, path: str, status: int, said: str
) -> None:
    answer = alone.get(path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert answer.json()["error"].startswith(said)


@pytest.mark.parametrize("body", [b"", b"{", b"[{]", b"\xff", b"[1, 2]", b'{"click_id": 1, "click_id": 2}'])
def test_request_without_any_good_click_is_unprocessable(alone: httpx.Client, body: bytes) -> None:
    answer = alone.post("/v1/clicks", content=body)
    assert answer.status_code == 422
    assert answer.json().get("error") or answer.json()["rejected"]


def test_click_that_a_page_posts_is_refused_and_not_decided(alone: httpx.Client, redis_client: redis.Redis) -> None:
    answer = alone.post("/v1/clicks", content=b"{}", headers={"Origin": "https://elsewhere.example"})
    assert (answer.status_code, answer.json()["error"]) == (
        403,
        "origin: expected none, since pages post no clicks, got 'https://elsewhere.example'",
    )
    assert stream.backlog(redis_client) == 0


def test_body_that_takes_too_long_is_refused(alone: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "BODY_SECONDS_MAX", 1.0)

    def slowly() -> Iterator[bytes]:
        yield b"["
        time.sleep(3.0)
        yield b"]"

    answer = alone.post("/v1/clicks", content=slowly())
    assert (answer.status_code, answer.json()["error"]) == (422, "body: expected all of it within 1 s, got 1 bytes")


def test_request_larger_than_allowed_is_refused(alone: httpx.Client) -> None:
    assert alone.post("/v1/clicks", content=b"[" + b" " * api.BODY_BYTES_MAX).status_code == 422
    assert alone.post("/v1/clicks", json=[1] * (api.CLICKS_MAX + 1)).status_code == 422


def test_many_requests_at_once_get_their_own_answers(client: httpx.Client) -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        [decision] = client.post("/v1/clicks", json=fields(number)).json()["decisions"]
        found[number] = client.get(f"/v1/decisions/{decision['click_id']}").json()["click_id"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found.values())) == 30


def test_unknown_click_is_not_found_and_a_wrong_id_unprocessable(alone: httpx.Client) -> None:
    assert alone.get("/v1/decisions/0198c2d3-0000-7000-8000-000000000000").status_code == 404
    assert alone.get("/v1/decisions/click-1").status_code == 422


def test_billing_feed_is_read_page_by_page_without_gap_or_repeat(client: httpx.Client) -> None:
    client.post("/v1/clicks", json=[fields(number) for number in range(7)])
    cursor, seen = "", []
    while True:
        page = client.get("/v1/billing/entries", params={"cursor": cursor, "limit": 3}).json()
        seen += [entry["click_id"] for entry in page["entries"]]
        cursor = page["cursor"]
        if page["at_head"]:
            break
    assert len(seen) == len(set(seen)) == 7
    position, line, _ = cursor.split(":")
    assert client.get("/v1/billing/entries", params={"cursor": f"{position}:{line}:00"}).status_code == 409
    assert client.get("/v1/billing/entries", params={"cursor": "nonsense"}).status_code == 422


def test_health_names_what_does_not_work(client: httpx.Client, fleet: Workers) -> None:
    healthy = client.get("/healthz")
    assert (healthy.status_code, healthy.json()["live"][0]["name"]) == (200, "scoring-1")
    fleet.stop("scoring-1")
    ill = client.get("/healthz")
    assert (ill.status_code, ill.json()["workers"], ill.json()["database"]) == (503, "none is alive", "ok")


def test_click_that_no_worker_answers_is_503_and_decided_later(
    database_url: str, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    given = {"home": tmp_path, "database_url": database_url, "redis_url": redis_url}
    with serving(**given, answer_seconds_max=0.2) as client:
        answer = client.post("/v1/clicks", json=fields(1))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        with workers(database_url, redis_url, tmp_path) as fleet:
            fleet.start("scoring-1")
            until(fleet.drained, "the click to be decided")
    with workers(database_url, redis_url, tmp_path) as fleet, serving(**given, answer_seconds_max=60) as client:
        fleet.start("scoring-1")
        assert client.post("/v1/clicks", json=fields(1)).json()["decisions"][0]["outcome"] == "repeat"


def test_full_stream_is_503_and_nothing_is_added(
    database_url: str, redis_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    with redis_client.pipeline(transaction=False) as pipe:
        for _ in range(stream.BACKLOG_MAX):
            pipe.xadd(stream.STREAM, {"c": b""})
        pipe.execute()
    with serving(home=tmp_path, database_url=database_url, redis_url=redis_url) as client:
        answer = client.post("/v1/clicks", json=fields(1))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert stream.backlog(redis_client) == stream.BACKLOG_MAX


def test_api_of_a_user_who_may_not_read_billing_does_not_start(
    servers: Any, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as admin:
        admin.execute("CREATE ROLE tests_stranger LOGIN")
        url = database_url.replace("://clickledger@", "://tests_stranger@")
        app = api.create_app(settings.load(database_url=url, redis_url=redis_url, home=tmp_path))
        try:
            with pytest.raises(Refused, match="cannot act as clickledger_billing_reader"):
                asyncio.run(app.router.lifespan_context(app).__aenter__())
        finally:
            admin.execute("DROP ROLE tests_stranger")
