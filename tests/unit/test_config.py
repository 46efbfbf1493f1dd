"""Settings: everything wrong is reported at once, by the variable's name, without its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import ConfigurationError, Settings, load_settings

GOOD = {"dnsimple_api_token": "abc", "dnsimple_account_id": 1010, "public_url": "https://certs.example.com"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    for name in ("DNSIMPLE_API_TOKEN", "DNSIMPLE_ACCOUNT_ID", "PUBLIC_URL"):
        assert name in str(caught.value)


def test_settings_come_from_the_environment_and_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DNSIMPLE_API_TOKEN=abc\nDNSIMPLE_ACCOUNT_ID=7\nPORT=\n")
    monkeypatch.setenv("PUBLIC_URL", "https://certs.example.com/")
    monkeypatch.setenv("WATCH_SECONDS", "1, 2.5,3")
    settings = load_settings()
    assert settings.dnsimple_account_id == 7
    assert settings.public_url == "https://certs.example.com"
    assert settings.watch_seconds == (1.0, 2.5, 3.0)
    assert settings.port == 4567


def test_everything_has_its_place_in_the_var_folder() -> None:
    settings = load_settings(**GOOD, var_dir="/srv/certcourier")
    assert settings.database_url == "sqlite:////srv/certcourier/certcourier.db"
    assert settings.kek_file == Path("/srv/certcourier/key-encryption.key")


def test_no_secret_is_printed() -> None:
    settings = load_settings(**GOOD | {"dnsimple_api_token": "very-secret"}, webhook_secret="s" * 40)
    assert "very-secret" not in repr(settings)
    assert "ssss" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dnsimple_api_token", "with space"),
        ("dnsimple_api_token", "line\nbreak"),
        ("dnsimple_api_token", " "),
        ("dnsimple_account_id", "abc"),
        ("dnsimple_account_id", 0),
        ("dnsimple_base_url", "https://api.dnsimple.com/v2"),
        ("public_url", "http://certs.example.com"),
        ("public_url", "certs.example.com"),
        ("public_url", "https://user:pass@certs.example.com"),
        ("public_url", "https://certs.example.com/?a=b"),
        ("database_url", "mysql://localhost/x"),
        ("destinations_file", "nowhere.toml"),
        ("webhook_secret", "short"),
        ("webhook_secret", "with/slash" * 5),
        ("history_days", 2),
        ("port", 70000),
        ("watch_seconds", "1,x"),
        ("watch_seconds", "0"),
        ("log_format", "xml"),
        ("web_workers", 2),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**GOOD | {name: value})
    assert name.upper() in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dnsimple_api_token", "secret token"),
        ("webhook_secret", "secret token"),
        ("database_url", "mysql://user:secret token@localhost/x"),
    ],
)
def test_a_wrong_value_is_not_repeated(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**GOOD | {name: value})
    assert "secret token" not in str(caught.value)


def test_plain_http_is_for_this_machine_alone() -> None:
    assert load_settings(**GOOD | {"public_url": "http://127.0.0.1:4567"}).public_url == "http://127.0.0.1:4567"
