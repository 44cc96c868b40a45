"""The HTTP API.

    POST /v1/clicks                  decide one click or a list; answers after commit
    GET  /v1/decisions/{click_id}    the decision in force
    GET  /v1/billing/entries         charges and adjustments in one order, by ?cursor= and ?limit=
    GET  /healthz                    database, stream and workers

Errors are `{"error": text}`. 503 carries Retry-After and means: nothing was refused for good, send it again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from operator import itemgetter
from typing import Any
from uuid import UUID

import msgspec
import redis
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg.rows import dict_row
from starlette.exceptions import HTTPException

from clickledger import settings as settings_
from clickledger.console import intake_settings, services
from clickledger.console.answering import Answering
from clickledger.errors import ClickledgerError, Conflict, InvalidInput, NotFound, Refused, Unavailable
from clickledger.ledger import billing, database, departed
from clickledger.ledger.rights import Role
from clickledger.scoring import facts, heartbeat, intake, stream
from clickledger.scoring.click import Click
from clickledger.scoring.intake import RejectedClick
from clickledger.scoring.intake_fields import GOT_CHARS_MAX, Bounds
from clickledger.scoring.networks import NO_FACTS
from clickledger.scoring.pseudonyms import Pseudonyms
from clickledger.scoring.stream import Answer
from clickledger.settings import Settings

logger = logging.getLogger(__name__)

CLICKS_MAX = 1000  # in one request
ENTRIES_MAX = 10_000  # in one answer
BODY_BYTES_MAX = 8 * 1024 * 1024
BODY_SECONDS_MAX = 30.0
RETRY_AFTER_SECONDS = 1
FOLLOW_SECONDS = 0.5  # how often it asks for the table of facts in force
FOLLOW_TIMEOUT_SECONDS = 5.0
TAKEN = "a click that the ledger takes"
ROLE = Role.BILLING_READER  # clicks go to the stream; what is read is decisions, money, and the table of facts
STATUS = ((InvalidInput, 422), (NotFound, 404), (Refused, 403), (Conflict, 409), (Unavailable, 503))
SELECT_DECISION = "SELECT * FROM decision_of(%s)"
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])


class _State:
    """What the running app holds."""

    def __init__(self, settings: Settings) -> None:
        _check_role(str(settings.database_url))
        self.pseudonyms: Pseudonyms = intake_settings.pseudonyms(settings)
        self.bounds: Bounds = intake_settings.bounds(settings)
        self.answering = Answering(str(settings.redis_url), settings.answer_seconds_max)
        self.pool = database.open_pool(
            str(settings.database_url), application_name="clickledger api", min_size=0, role=ROLE
        )
        self.redis_url = str(settings.redis_url)
        self.facts = NO_FACTS

    def follow_facts(self) -> None:
        """Look addresses up in the table that the deployment names. Where the database is away, the last one stays."""
        try:
            with self.pool.connection(timeout=FOLLOW_TIMEOUT_SECONDS) as conn:
                self.facts = facts.in_force(conn, self.facts)
        except ClickledgerError as error:
            logger.warning("table of facts, version %d stays: %s", self.facts.version, error)

    async def follow_facts_for_ever(self) -> None:
        """Follow the deployment: the flags of clicks in between have no value, since they name the other version."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            await asyncio.to_thread(self.follow_facts)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The app; without settings it reads them when it starts."""

    @asynccontextmanager
    async def lifespan(running: FastAPI) -> AsyncIterator[None]:
        state = _State(services.attach(settings or settings_.load()))
        running.state.held = state
        state.answering.start()
        await asyncio.to_thread(state.follow_facts)
        following = asyncio.create_task(state.follow_facts_for_ever())
        try:
            yield
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await state.answering.close()
            state.pool.close()

    # Its pages of documentation would load scripts from elsewhere into an origin that may read and post everything.
    made = FastAPI(title="clickledger", lifespan=lifespan, docs_url=None, redoc_url=None)
    made.add_exception_handler(ClickledgerError, _on_error)
    made.add_exception_handler(RequestValidationError, _on_parameter)
    made.add_exception_handler(HTTPException, _on_route)
    made.add_api_route("/v1/clicks", post_clicks, methods=["POST"])
    made.add_api_route("/v1/decisions/{click_id}", get_decision, methods=["GET"])
    made.add_api_route("/v1/billing/entries", get_billing_entries, methods=["GET"])
    made.add_api_route("/healthz", get_health, methods=["GET"])
    return made


def _check_role(database_url: str) -> None:
    """Raise Refused when the user may not take the API's role: later that is a pool that never fills.

    A server that is away is waited for, request by request.
    """
    with suppress(Unavailable):
        database.connect(database_url, application_name="clickledger api", role=ROLE).close()


async def post_clicks(request: Request) -> Response:
    """Decide one click (an object) or up to `CLICKS_MAX` (a list of them), in the fields of NDJSON.

    200 with `decisions` and `rejected`, both by index, when at least one click was good; 422 when none was. A row may
    be a click and yet none that the ledger takes, as one of a day that has left it: a worker says so.
    """
    if origin := request.headers.get("origin"):  # of a browser: any page could post clicks to whom its reader can reach
        raise Refused(f"origin: expected none, since pages post no clicks, got {origin[:GOT_CHARS_MAX]!r}")
    state = _held(request)
    rows = _rows(await _body(request))
    good, rejected = _parse(rows, state)
    decisions = []
    for index, answer in zip(good, await state.answering.decide(list(good.values())) if good else [], strict=True):
        if answer.outcome == stream.REJECTED:
            rejected.append({"index": index, "field": "click", "expected": TAKEN, "got": answer.reason})
        else:
            decisions.append(_decision(index, answer))
    rejected.sort(key=itemgetter("index"))
    return _json({"decisions": decisions, "rejected": rejected}, 200 if decisions or not rows else 422)


def get_decision(click_id: str, request: Request) -> Response:
    """The decision in force for a click, live or from a publication."""
    try:
        wanted = UUID(click_id)
    except ValueError as error:
        raise InvalidInput(f"click_id: expected a UUID, got {click_id[:60]!r}") from error
    with _held(request).pool.connection() as conn, conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(SELECT_DECISION, (wanted,)).fetchone()
        if row is None:
            raise NotFound(departed.where_is(conn, wanted) or f"no click {wanted}")
    return _json({name: _finite(value) for name, value in row.items()}, 200)


def get_billing_entries(request: Request, cursor: str = "", limit: int = 1000) -> Response:
    """The next lines of the billing feed after `cursor`, at most `limit`, and the cursor to go on from.

    409 when the log no longer holds what the cursor has seen.
    """
    if not 1 <= limit <= ENTRIES_MAX:
        raise InvalidInput(f"limit: expected 1 to {ENTRIES_MAX}, got {limit}")
    with _held(request).pool.connection() as conn:
        page = billing.read(conn, _cursor(cursor), limit)
    following = ":".join(map(str, page.cursor))
    return _json({"entries": page.entries, "cursor": following, "at_head": page.at_head}, 200)


def _cursor(text: str) -> billing.Cursor:
    """The cursor of a page, as this API wrote it; empty stands for the beginning."""
    if not text:
        return billing.Cursor()
    try:
        position, line, chain_hash = text.split(":")
        return billing.Cursor(int(position), int(line), chain_hash)
    except ValueError as error:
        raise InvalidInput(f"cursor: expected one from an earlier answer, got {text[:80]!r}") from error


def get_health(request: Request) -> Response:
    """200 when database and stream answer and a worker decides; else 503, saying what does not."""
    state = _held(request)
    problems = {"database": _database_problem(state), "stream": None, "workers": None}
    workers: list[heartbeat.Heartbeat] = []
    try:
        with stream.connect(state.redis_url) as client:
            workers = heartbeat.live(client)
    except redis.RedisError as error:
        problems["stream"] = str(error)
    if not workers:
        problems["workers"] = "none is alive"
    found = {name: problem or "ok" for name, problem in problems.items()}
    body = {**found, "live": [msgspec.to_builtins(worker) for worker in workers]}
    return _json(body, 503 if any(problems.values()) else 200)


def _held(request: Request) -> _State:
    state: _State = request.app.state.held
    return state


async def _body(request: Request) -> bytes:
    body = bytearray()  # a sender may cut it into single bytes
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise InvalidInput(f"body: expected at most {BODY_BYTES_MAX} bytes, got more")
    except TimeoutError as error:
        raise InvalidInput(f"body: expected all of it within {BODY_SECONDS_MAX:g} s, got {len(body)} bytes") from error
    return bytes(body)


def _rows(body: bytes) -> list[bytes]:
    """The JSON text of each click."""
    if not body.lstrip().startswith(b"["):
        return [body.strip()]
    try:
        rows = [bytes(raw) for raw in _ROWS.decode(body)]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"body: expected a click or a list of clicks as JSON, got {error}") from error
    if len(rows) > CLICKS_MAX:
        raise InvalidInput(f"body: expected at most {CLICKS_MAX} clicks, got {len(rows)}")
    return rows


def _parse(rows: list[bytes], state: _State) -> tuple[dict[int, Click], list[dict[str, Any]]]:
    now_ms = time.time_ns() // 1_000_000
    good, rejected = {}, []
    for index, row in enumerate(rows):
        try:
            good[index] = intake.parse_ndjson_line(
                row, state.pseudonyms, now_ms=now_ms, bounds=state.bounds, facts=state.facts
            )
        except RejectedClick as error:
            what = {"field": error.field, "expected": error.expected, "got": error.got}
            rejected.append({"index": index, **what})
    return good, rejected


def _decision(index: int, answer: Answer) -> dict[str, Any]:
    """An answer as its sender sees it."""
    named = {name: getattr(answer, name) for name in answer.__struct_fields__ if name != "key"}
    return {"index": index, **named, "click_id": str(UUID(bytes=answer.click_id))}


def _database_problem(state: _State) -> str | None:
    try:
        with state.pool.connection(timeout=2) as conn:
            conn.execute("SELECT 1")
    except ClickledgerError as error:
        return str(error)
    return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(body: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, "application/json")


async def _on_error(_request: Request, error: Exception) -> Response:
    status = next((number for kind, number in STATUS if isinstance(error, kind)), 500)
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    if status == 500:
        logger.error("%s: %s", type(error).__name__, error)
    return JSONResponse({"error": str(error)}, status, headers)


async def _on_parameter(request: Request, error: Exception) -> Response:
    """A parameter of another type than it has, in the words of every other field."""
    assert isinstance(error, RequestValidationError)
    said = [f"{one['loc'][-1]}: {one['msg']}, got {str(one['input'])[:GOT_CHARS_MAX]!r}" for one in error.errors()]
    return await _on_error(request, InvalidInput("; ".join(said)))


async def _on_route(_request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


app = create_app()
