"""Settings: which source wins, and what is said about a value that cannot be used."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from clickledger import settings
from clickledger.errors import InvalidSetting


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_nothing_and_live_under_the_working_directory(tmp_path: Path) -> None:
    loaded = settings.load()
    assert loaded.home == tmp_path / ".clickledger"
    assert (loaded.database_url, loaded.redis_url) == (None, None)
    assert loaded.genesis == date(2010, 1, 1)


def test_arguments_go_over_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "clickledger.toml").write_text('http_port = 1\nlease_seconds = 2.5\nhttp_host = "::1"\n')
    monkeypatch.setenv("CLICKLEDGER_HOME", str(tmp_path))
    monkeypatch.setenv("CLICKLEDGER_HTTP_PORT", "3")
    loaded = settings.load(http_host="0.0.0.0")
    assert (loaded.http_port, loaded.lease_seconds, loaded.http_host) == (3, 2.5, "0.0.0.0")
    assert loaded.detect_interval_seconds == 10.0


def test_the_file_named_by_config_replaces_that_of_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "clickledger.toml").write_text("http_port = 1")
    (tmp_path / "other.toml").write_text("http_port = 2")
    monkeypatch.setenv("CLICKLEDGER_CONFIG", "other.toml")
    assert settings.load(home=tmp_path).http_port == 2


def test_an_empty_variable_of_an_optional_setting_means_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLEDGER_DATABASE_URL", "")
    assert settings.load().database_url is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HTTP_PORT", "http", "CLICKLEDGER_HTTP_PORT: expected a valid integer"),
        ("HTTP_PORT", "70000", "CLICKLEDGER_HTTP_PORT: expected less than or equal to 65535, got '70000'"),
        (
            "ROLLBACK_POLICY",
            "maybe",
            "CLICKLEDGER_ROLLBACK_POLICY: expected 'observe', 'propose' or 'auto', got 'maybe'",
        ),
        ("LEASE_SECONDS", "-1", "CLICKLEDGER_LEASE_SECONDS: expected greater than 0, got '-1'"),
        ("GENESIS", "yesterday", "CLICKLEDGER_GENESIS: expected"),
    ],
)
def test_a_wrong_variable_is_named_with_expected_and_got(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(settings.PREFIX + name, value)
    with pytest.raises(InvalidSetting) as raised:
        settings.load()
    assert said in str(raised.value)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://root:hunter2@db/x"),
        ("DATABASE_URL", "postgresql://root:hunter2@db/x?schema=public"),
        ("DATABASE_URL", "postgresql://root:%hunter2@db/x"),
        ("DATABASE_URL", "postgresql://root:hunter2@[::1/x"),
        ("REDIS_URL", "redis://:hunter2@db:port/0"),
    ],
)
def test_a_wrong_address_is_never_printed_since_it_may_hold_a_password(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"CLICKLEDGER_{name}", value)
    with pytest.raises(InvalidSetting, match=f"^CLICKLEDGER_{name}: expected .*, got a value that is kept") as raised:
        settings.load()
    assert "hunter2" not in str(raised.value)


def test_a_right_address_is_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLEDGER_DATABASE_URL", "postgresql://root:hunter2@db/x")
    assert "hunter2" not in repr(settings.load())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("htpp_port = 1", "htpp_port in {file}: no such setting"),
        ('http_port = "x"', "http_port in {file}: expected a valid integer"),
        ("http_port =", "{file}: expected a readable TOML file"),
    ],
)
def test_a_wrong_file_is_named_with_its_setting(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "clickledger.toml"
    file.write_text(text)
    with pytest.raises(InvalidSetting) as raised:
        settings.load(home=tmp_path)
    assert said.format(file=file) in str(raised.value)


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLEDGER_CONFIG", "/nowhere/clickledger.toml")
    with pytest.raises(InvalidSetting, match=r"/nowhere/clickledger\.toml, which does not exist"):
        settings.load()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.load().http_port = 1


@pytest.mark.parametrize(
    ("given", "broker"),
    [
        ("redis://:pw@host:6379/2", "redis://:pw@host:6379/2"),
        ("unix:///run/valkey.sock?db=3", "redis+socket:///run/valkey.sock?virtual_host=3"),
        ("unix://:pw@/run/valkey.sock", "redis+socket://:pw@/run/valkey.sock?virtual_host=0"),
    ],
)
def test_celery_gets_the_address_in_its_own_spelling(given: str, broker: str) -> None:
    assert settings.broker_url(given) == broker
