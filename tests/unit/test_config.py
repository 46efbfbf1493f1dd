"""Settings: everything wrong is reported at once, by the variable's name, without its value."""

from __future__ import annotations

import json
import pprint
import secrets
import traceback
from collections.abc import Callable
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
    monkeypatch.setenv("ISSUANCE_POLL_SECONDS", "1, 2.5,3")
    settings = load_settings()
    assert settings.dnsimple_account_id == 7
    assert settings.public_url == "https://certs.example.com"
    assert settings.issuance_poll_seconds == (1.0, 2.5, 3.0)
    assert settings.port == 4567


def test_everything_has_its_place_in_the_var_folder() -> None:
    settings = load_settings(**GOOD, data_dir="/srv/certcourier")
    assert settings.database_url == "sqlite:////srv/certcourier/certcourier.db"
    assert settings.kek_file == Path("/srv/certcourier/key-encryption.key")


SECRETS = {
    "dnsimple_api_token": "very-secret-token",
    "database_url": "postgresql://certcourier:very-secret-password@database/certcourier",
    "webhook_secret": "very-secret-path-Kx3Vq7Rk2Xz9Jm4Tb8WpLd5nGh",
    "key_encryption_key": "dmVyeS1zZWNyZXQtdmVyeS1zZWNyZXQtdmVyeS1zZWM=",
}
SECRET_PARTS = ("very-secret", "dmVyeS")


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda settings: repr(settings.model_dump()),
        lambda settings: settings.model_dump_json(),
        lambda settings: json.dumps(settings.model_dump(mode="json")),
        lambda settings: "\n".join(repr(value) for value in vars(settings).values()),
        lambda settings: pprint.pformat(settings.model_dump()),
    ],
    ids=["repr", "str", "dump", "json", "json mode", "fields", "pprint"],
)
def test_no_secret_is_printed(show: Callable[[Settings], str]) -> None:
    shown = show(load_settings(**GOOD | SECRETS))
    assert not any(part in shown for part in SECRET_PARTS)
    assert "certs.example.com" in shown


def test_a_database_without_a_password_is_shown() -> None:
    assert "sqlite:///var/certcourier.db" in repr(load_settings(**GOOD))


def test_the_secrets_are_there_for_use() -> None:
    settings = load_settings(**GOOD | SECRETS)
    assert f"{settings.database_url}" == SECRETS["database_url"]
    assert settings.dnsimple_api_token.get_secret_value() == SECRETS["dnsimple_api_token"]


@pytest.mark.parametrize("name", SECRETS)
def test_a_wrong_setting_beside_a_secret_does_not_print_it(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**GOOD | {name: SECRETS[name], "port": "no port"})
    message = (
        "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + repr(caught.value.__context__)
    )
    assert "PORT" in message
    assert SECRETS[name] not in message


@pytest.mark.parametrize("name", ["dnsimple_api_token", "database_url", "webhook_secret"])
def test_a_secret_comes_from_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRETS[name] + "\n")
    file.chmod(0o400)
    given = {key: value for key, value in GOOD.items() if key != name}
    value = getattr(load_settings(**given | {f"{name}_file": file}), name)
    assert (value if isinstance(value, str) else value.get_secret_value()) == SECRETS[name]


def test_a_secret_file_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-the-file")
    file.chmod(0o600)
    monkeypatch.setenv("DNSIMPLE_API_TOKEN_FILE", str(file))
    given = {key: value for key, value in GOOD.items() if key != "dnsimple_api_token"}
    assert load_settings(**given).dnsimple_api_token.get_secret_value() == "from-the-file"


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_from_two_places_is_refused_by_both_names(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRETS[name])
    file.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**GOOD | {name: SECRETS[name], f"{name}_file": str(file)})
    assert f"{name.upper()} and {name.upper()}_FILE" in str(caught.value)


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    given = {key: value for key, value in GOOD.items() if key != "dnsimple_api_token"}
    with pytest.raises(ConfigurationError, match="DNSIMPLE_API_TOKEN_FILE"):
        load_settings(**given, dnsimple_api_token_file=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "weak",
    [
        "s" * 64,
        "short",
        "with/slash" * 5,
        "Kx3Vq7Rk2Xz9Jm4Tb8WpLd5nGhYc6Zf1Qv0Ea_Uo-w"[:42],
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "correct-horse-" * 4,
        "0123456789" * 8,
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822",
        "0123456789abcdef" * 4,
    ],
)
def test_a_webhook_secret_that_can_be_guessed_is_refused_with_the_remedy(weak: str) -> None:
    with pytest.raises(ConfigurationError, match=r"WEBHOOK_SECRET.*256 random bits.*token_urlsafe") as caught:
        load_settings(**GOOD, webhook_secret=weak)
    assert weak not in str(caught.value)


def test_a_webhook_secret_of_256_random_bits_is_taken() -> None:
    for _ in range(500):
        for strong in (secrets.token_urlsafe(32), secrets.token_hex(32)):
            load_settings(**GOOD, webhook_secret=strong)


@pytest.mark.parametrize("value", ["0", "-1", "forever", "1.5", "٣"])
def test_an_invalid_key_retention_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="PRIVATE_KEY_RETENTION"):
        load_settings(**GOOD, private_key_retention=value)


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
        ("retention_days", 2),
        ("port", 70000),
        ("issuance_poll_seconds", "1,x"),
        ("issuance_poll_seconds", "0"),
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


def test_a_mistyped_path_of_sqlite_makes_no_folders(tmp_path: Path) -> None:
    mistyped = tmp_path / "vra" / "certcourier.db"
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL: the folder .*vra does not exist"):
        load_settings(**GOOD, data_dir=tmp_path / "var", database_url=f"sqlite:///{mistyped}")
    assert not mistyped.parent.exists()


def test_a_setting_of_the_wrong_kind_is_explained_in_plain_words() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(**GOOD, port="many", log_level="loud", keep_keys_removed_at_dnsimple="perhaps")
    assert str(caught.value).splitlines() == [
        "  PORT: must be a whole number",
        "  KEEP_KEYS_REMOVED_AT_DNSIMPLE: must be true or false",
        "  LOG_LEVEL: must be 'debug', 'info', 'warning' or 'error'",
    ]
