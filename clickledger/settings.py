"""Settings: the environment over `clickledger.toml` over defaults, checked once at start.

Invariants:
- an instance is complete, typed and immutable; no module reads the environment for a setting by itself;
- a value that cannot be used is an `InvalidSetting` that names the setting, where it came from, what was expected and
  what came; values of secrets are never printed.

Environment names are the field names with `CLICKLEDGER_` before them. The file is `$CLICKLEDGER_CONFIG`, or
`clickledger.toml` in the home folder; an unknown key in it is an error. Unknown environment names are not: Kubernetes
adds some of its own (`CLICKLEDGER_SERVICE_HOST`) to every container beside a service of that name.
"""

from __future__ import annotations

import os
import tomllib
from datetime import date, time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from clickledger.errors import InvalidSetting

PREFIX = "CLICKLEDGER_"

_SECRETS = frozenset({"database_url", "redis_url", "pseudonym_key", "checkpoint_key"})


def _none_if_empty(value: object) -> object:
    """An exported but empty variable means "not set"; shells and compose files produce many."""
    return None if value == "" else value


def _absolute(value: object) -> object:
    return Path(value).expanduser().absolute() if isinstance(value, str | Path) and str(value) else value


def _postgres_address(value: str | None) -> str | None:
    """Refuse what libpq cannot take apart here, where the setting is named: its own words may quote a password."""
    if value is not None:
        from psycopg import ProgrammingError, conninfo  # noqa: PLC0415 - most commands have it of the runtime file

        try:
            conninfo.conninfo_to_dict(value)
        except ProgrammingError:
            raise ValueError("a PostgreSQL address that libpq can read, special characters as %XX") from None
    return value


def _redis_address(value: str | None) -> str | None:
    if value is not None:
        try:
            _ = urlsplit(value).port
        except ValueError:
            raise ValueError("a Redis address, special characters as %XX") from None
    return value


HomePath = Annotated[Path, BeforeValidator(_absolute)]
OptionalPath = Annotated[Path | None, BeforeValidator(_absolute), BeforeValidator(_none_if_empty)]
OptionalCap = Annotated[int | None, BeforeValidator(_none_if_empty)]
OptionalTime = Annotated[time | None, BeforeValidator(_none_if_empty)]
OptionalSecret = Annotated[str | None, BeforeValidator(_none_if_empty), Field(repr=False)]

PostgresAddress = Annotated[OptionalSecret, AfterValidator(_postgres_address)]
RedisAddress = Annotated[OptionalSecret, AfterValidator(_redis_address)]


class Settings(BaseSettings):
    """Everything that can be set. Times are in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    home: HomePath = Path(".clickledger")  # local servers' data, logs, keys, the runtime file
    database_url: PostgresAddress = Field(default=None, pattern=r"^postgres(ql)?://")  # given: no local PostgreSQL
    redis_url: RedisAddress = Field(default=None, pattern=r"^(rediss?|unix)://")  # given: no local Valkey

    http_host: str = "127.0.0.1"
    http_port: int = Field(default=8411, ge=0, le=65535)  # 0: any free one, named in the runtime file

    pseudonym_key_file: OptionalPath = None  # default: pseudonym.key in the home folder
    pseudonym_key: OptionalSecret = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")  # hex; goes before the file

    checkpoint_key_file: OptionalPath = None  # default: checkpoint.key in the home folder
    checkpoint_key: OptionalSecret = Field(default=None, pattern=r"^PRIVATE\+KEY\+")  # goes before the file
    checkpoint_interval_seconds: float = Field(default=60.0, gt=0)  # between signatures, while the log grows

    genesis: date = date(2010, 1, 1)  # no click is older
    future_tolerance_seconds: float = Field(default=3600.0, ge=0)  # a click may be this far ahead of its receipt

    worker_batch_clicks_max: int = Field(default=256, ge=1, le=4096)
    scoring_workers: int = Field(default=1, ge=1, le=256)
    claim_idle_seconds: float = Field(default=15.0, gt=0)  # what a worker took is given to another after this silence
    restore_at_once_max: int = Field(default=200_000, ge=0)  # lost counters of more clicks come back in two steps
    answer_seconds_max: float = Field(default=5.0, gt=0)  # how long the API waits for decisions before it says 503
    device: Literal["auto", "cpu", "cuda"] = "auto"

    replay_workers: int = Field(default=2, ge=1, le=256)
    lease_seconds: float = Field(default=10.0, gt=0)  # a chunk whose worker is silent this long is given to another
    replay_live_p99_ms_max: float = Field(default=25.0, ge=0)  # above it replays pause; 0 = never

    detect_interval_seconds: float = Field(default=10.0, gt=0)
    known_customer_purchase_age_hours: float = Field(default=24.0, ge=0)  # younger purchases vouch for nobody
    rollback_policy: Literal["observe", "propose", "auto"] = "auto"
    # Gross micros of each currency that one person may publish or revert, empty for no limit; above it takes two.
    cap_publication_micros: OptionalCap = Field(default=10_000_000_000, ge=0)
    cap_advertiser_micros: OptionalCap = Field(default=5_000_000_000, ge=0)
    cap_day_micros: OptionalCap = Field(default=50_000_000_000, ge=0)
    propose_interval_seconds: float = Field(default=3600.0, gt=0)  # between looks for corrections to propose
    auto_replay: bool = True  # after a rollback
    auto_publish_gross_micros: int = Field(default=0, ge=0)  # what may be published unasked; 0: nothing

    daily_training_at: OptionalTime = time(4, 30)  # UTC; empty: no model is trained by itself
    candidate_shadow_hours: float = Field(default=24.0, ge=0)  # then a candidate's behaviour is judged

    start_seconds_max: float = Field(default=60.0, gt=0)  # how long a server or process may take to become ready

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over the environment over the file; no .env, no secrets folder."""
        home = init_settings().get("home") or os.environ.get(f"{PREFIX}HOME") or cls.model_fields["home"].default
        return init_settings, env_settings, InitSettingsSource(settings_cls, _read_file(Path(home)))


def load(**given: Any) -> Settings:
    """Read and check all settings; `given` goes over every other source. Raises `InvalidSetting`."""
    try:
        return Settings(**given)
    except ValidationError as error:
        lines = [_explain(detail, given) for detail in error.errors()]
        raise InvalidSetting("; ".join(lines)) from error


def broker_url(redis_url: str) -> str:
    """The address of the same server as Celery writes it: its unix sockets are `redis+socket://`."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    password = f":{parts.password}@" if parts.password else ""
    return f"redis+socket://{password}{parts.path}?virtual_host={database}"


def _file_of(home: Path) -> Path:
    named = os.environ.get(f"{PREFIX}CONFIG")
    return Path(named).expanduser() if named else home.expanduser() / "clickledger.toml"


def _read_file(home: Path) -> dict[str, Any]:
    path = _file_of(home)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if f"{PREFIX}CONFIG" in os.environ:
            raise InvalidSetting(f"{PREFIX}CONFIG: expected a TOML file, got {path}, which does not exist") from error
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"{path}: expected a readable TOML file, got: {error}") from error


def _explain(detail: ErrorDetails, given: dict[str, Any]) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else "settings"
    where = _source_of(name, given)
    if detail["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    got = "a value that is kept out of messages" if name in _SECRETS else repr(detail["input"])
    expected = (
        detail["msg"].removeprefix("Input should be ").removeprefix("String should ").removeprefix("Value error, ")
    )
    return f"{where}: expected {expected}, got {got}"


def _source_of(name: str, given: dict[str, Any]) -> str:
    if name in given:
        return name
    variable = f"{PREFIX}{name.upper()}"
    return variable if variable in os.environ else f"{name} in {_file_of(_home_of(given))}"


def _home_of(given: dict[str, Any]) -> Path:
    return Path(given.get("home") or os.environ.get(f"{PREFIX}HOME") or ".clickledger")
