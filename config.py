"""The settings: environment variables, or the same names in `.env`. Documented in docs/configuration.md."""

from __future__ import annotations

import math
import os
import stat
import string
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_HANDED_OUT = {("/", "run", "secrets"), ("/", "run", "credentials")}
_SECRET_BITS = 256
_SECRETS_FROM_FILES = ("dnsimple_api_token", "database_url", "webhook_secret")
Network = IPv4Network | IPv6Network


class ConfigurationError(Exception):
    """Invalid settings: one line for each, with the variable's name and without its value."""


class SecretFileError(ValueError):
    """A file that cannot be used as a secret; the message gives the remedy and contains nothing of the secret."""


def is_handed_out(path: Path) -> bool:
    """Whether Docker or systemd provides this file, and so determines its mode."""
    return path.resolve().parts[:3] in _HANDED_OUT


def read_secret_file(path: Path) -> str:
    """The secret in a file, stripped of white space. Raises `SecretFileError` if others can read or change the file.

    Docker provides secrets world-readable (0444) in /run/secrets; systemd provides credentials in /run/credentials, in
    a directory that only the service can enter. Elsewhere, only the owner may read the file, or the group of a file
    owned by root.
    """
    try:
        status = path.stat()
        handed_out = is_handed_out(path)
        if status.st_uid not in {0, os.geteuid()} and not handed_out:
            raise SecretFileError(f"{path} belongs to another user: run `chown {os.geteuid()} {path}`")
        of_roots_choice = status.st_uid == 0 and os.geteuid() != 0
        forbidden = 0o022 if handed_out else 0o027 if of_roots_choice else 0o077
        if stat.S_IMODE(status.st_mode) & forbidden:
            raise SecretFileError(f"{path} can be read or changed by others: run `chmod 600 {path}`")
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretFileError(f"{path} cannot be read: {getattr(error, 'strerror', 'it is not text')}") from None
    if not secret:
        raise SecretFileError(f"{path} is empty")
    return secret


class _MaskedUrl(str):
    """A URL whose password is not shown in its representation."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str.__repr__(_masked(self))


def _masked(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None and "password" not in parts.query:
        return url
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}:***@{host}" if user else host
    return urlunsplit(parts._replace(netloc=netloc, query="***" if parts.query else ""))


def _is_guessable(secret: str) -> bool:
    """Whether a text of A-Z a-z 0-9 - _ has less than 256 bits or was evidently not generated randomly."""
    digits = set(secret) <= set(string.digits)
    hexadecimal = set(secret) <= set(string.hexdigits)
    bits = len(secret) * math.log2(10 if digits else 16 if hexadecimal else 64)
    pieces = [secret[at : at + 8] for at in range(len(secret) - 7)]
    steps = [ord(later) - ord(earlier) for earlier, later in pairwise(secret)]
    counting = sum(abs(step) <= 1 for step in steps) > len(steps) / 2
    return bits < _SECRET_BITS or len(set(secret)) < 10 or len(set(pieces)) < len(pieces) or counting


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _networks(value: object) -> object:
    parts = _split(value)
    try:
        return [ip_network(str(part)) for part in parts] if isinstance(parts, (list, tuple)) else parts
    except ValueError:
        raise ValueError("must be networks such as 10.0.0.0/8,2001:db8::/32, comma-separated") from None


def _hosts(value: object) -> object:
    parts = _split(value)
    hosts = [str(part).lower() for part in parts] if isinstance(parts, (list, tuple)) else []
    if not all(host and not set(host) & set("/@*?# \t") and (":" not in host or host[0] == "[") for host in hosts):
        raise ValueError("must be host names without scheme, port and path, comma-separated")
    return hosts


class Settings(BaseSettings):
    """One field per environment variable, whose name is the field's in capitals."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    dnsimple_api_token: SecretStr = Field(description="Account token of the DNSimple account.")
    dnsimple_api_token_file: Path | None = Field(None, description="File that contains `DNSIMPLE_API_TOKEN`.")
    dnsimple_account_id: PositiveInt = Field(description="ID of the DNSimple account.")
    dnsimple_base_url: str = Field("https://api.dnsimple.com", description="URL of DNSimple's API, without `/v2`.")
    dnsimple_connect_timeout_seconds: PositiveFloat = Field(
        5.0, description="Timeout for connecting to DNSimple, in seconds."
    )
    dnsimple_read_timeout_seconds: PositiveFloat = Field(
        30.0, description="Timeout for an answer of DNSimple, in seconds."
    )
    dnsimple_ca_bundle: Path | None = Field(
        None,
        description="PEM file of the certification authorities to trust for DNSimple; by default the system's.",
    )

    public_url: str = Field(
        description=(
            "URL at which DNSimple reaches this service, e.g. `https://certs.example.com`. Must be https, except "
            "on loopback."
        )
    )
    host: str = Field("127.0.0.1", description="Address that the web server listens on.")
    port: int = Field(4567, ge=0, le=65535, description="Port that the web server listens on.")
    web_workers: PositiveInt | None = Field(
        None,
        description=(
            "Number of web processes; by default 1 on SQLite, whose writers share commits, and 2 on PostgreSQL."
        ),
    )
    web_threads: PositiveInt = Field(32, description="Number of threads of each web process.")
    worker_threads: PositiveInt = Field(8, description="Number of jobs that a worker process runs at a time.")
    order_wait_seconds: PositiveFloat = Field(
        20.0,
        description=(
            "Time that the request of an order waits for DNSimple, in seconds; then it returns 202, and a job "
            "continues the order."
        ),
    )
    max_body_bytes: PositiveInt = Field(262_144, description="Maximum size of a request body, in bytes.")
    request_read_timeout_seconds: PositiveFloat = Field(
        15.0,
        description="Time that a client has to send a request, from its first to its last byte, in seconds.",
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)] = Field(
        (),
        description=(
            "Host names that requests may be addressed to, comma-separated, in addition to that of `PUBLIC_URL` "
            "and loopback."
        ),
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)] = Field(
        (),
        description=(
            "Networks of proxies whose `X-Forwarded-For`, `-Proto`, `-Host` and `X-Request-Id` are trusted, "
            "comma-separated; by default none."
        ),
    )
    token_requests_per_minute: PositiveInt = Field(
        600, description="Requests per minute that a token may make, across all hosts."
    )
    failed_logins_per_minute: PositiveInt = Field(
        10, description="Requests per minute without a valid token that an address may make, across all hosts."
    )

    dashboard_session_minutes: float = Field(
        60.0, gt=0, le=1440, description="Lifetime of a dashboard session, in minutes."
    )

    data_dir: Path = Field(Path("var"), description="Directory of all files that have no setting of their own.")
    database_url: Annotated[
        str, AfterValidator(_MaskedUrl), PlainSerializer(_masked, return_type=str, when_used="json")
    ] = Field("", description="`sqlite:///FILE` or `postgresql://...`; by default `certcourier.db` in `DATA_DIR`.")
    database_url_file: Path | None = Field(None, description="File that contains `DATABASE_URL`.")
    destinations_file: Path | None = Field(
        None,
        description=(
            "TOML file that defines destinations and endpoints; by default there is one destination of kind "
            "`files`, `certificates` in `DATA_DIR`."
        ),
    )
    key_encryption_key: SecretStr | None = Field(
        None,
        description=(
            "Key that encrypts private keys, 32 bytes in base64, or several separated by spaces, of which the "
            "first one encrypts. Prefer a file."
        ),
    )
    key_encryption_key_file: Path | None = Field(
        None,
        description=(
            "File that contains the key, or several, one per line; by default `key-encryption.key` in `DATA_DIR`,"
            " which is created with mode 0600 if it does not exist."
        ),
    )
    private_key_retention: str = Field(
        "lineage",
        description=(
            "How long private keys are stored: `lineage` (until their certificate expires), `delivered` (until it"
            " has been delivered to all destinations), or a number of days after they were fetched."
        ),
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description=(
            "Secret in the path of the webhook URL: at least 256 random bits as 43 or more characters of A-Z a-z "
            "0-9 - _ (64 if hexadecimal); by default generated and stored encrypted in the database."
        ),
    )
    webhook_secret_file: Path | None = Field(None, description="File that contains `WEBHOOK_SECRET`.")
    webhook_networks: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)] = Field(
        (), description="Networks from which events are accepted, comma-separated, e.g. `192.0.2.0/24`; by default all."
    )

    job_lease_seconds: float = Field(
        30.0,
        ge=1,
        description="Time without a heartbeat after which other workers take over a worker's jobs, in seconds.",
    )
    purchase_settle_seconds: PositiveFloat = Field(
        60.0,
        description=(
            "Time after which a purchase whose answer was lost is repeated if no certificate has appeared, in "
            "seconds. At least `DNSIMPLE_READ_TIMEOUT_SECONDS`."
        ),
    )
    issuance_poll_seconds: Annotated[tuple[PositiveFloat, ...], NoDecode, BeforeValidator(_split)] = Field(
        (120.0, 300.0, 900.0, 3600.0),
        description=(
            "Delays before each check of a pending certificate, in seconds, comma-separated; the last one repeats."
        ),
    )
    quota_reserve_percent: float = Field(
        10.0, ge=0, le=90, description="Share of the hourly API calls that is reserved for orders in progress."
    )
    quota_unknown_percent: float = Field(
        5.0, gt=0, le=50, description="Share of the hourly API calls that events about unknown certificates may use."
    )
    reconcile_percent: float = Field(
        3.5,
        ge=0,
        le=50,
        description=(
            "Share of the hourly API calls for reconciliation, which finds certificates whose event was missed."
        ),
    )
    renewal_policy: Literal["never", "without_auto_renew", "overdue"] = Field(
        "never",
        description=(
            "Which certificates Certcourier itself renews: none; those without auto-renewal; or also those that "
            "DNSimple should have renewed but did not."
        ),
    )
    ari_url: str | None = Field(
        None,
        description=(
            "`renewalInfo` URL of the certification authority's ACME directory (RFC 9773), for Let's Encrypt "
            "`https://acme-v02.api.letsencrypt.org/acme/renewal-info`. Certificates that the authority wants "
            "replaced early, for example before a revocation, are renewed regardless of `RENEWAL_POLICY`."
        ),
    )
    keep_keys_removed_at_dnsimple: bool = Field(
        True,
        description=(
            "Whether to keep the encrypted copy of a private key that is removed at DNSimple. Without it, the "
            "certificate cannot be delivered again."
        ),
    )
    idempotency_key_hours: PositiveInt = Field(24, description="How long an `Idempotency-Key` is valid, in hours.")
    retention_days: int = Field(
        90,
        ge=3,
        description="How long events and finished jobs are stored, in days. DNSimple may retry an event for hours.",
    )

    metrics_cache_seconds: float = Field(
        15.0, ge=0, le=3600, description="Maximum age of the database metrics returned by `GET /metrics`, in seconds."
    )
    metrics_lineages: int = Field(
        20,
        ge=0,
        le=1000,
        description=(
            "Number of lineages, those that expire first, for which `GET /metrics` reports the remaining lifetime"
            " individually."
        ),
    )
    alert_delivery_seconds: PositiveFloat = Field(
        900.0, description="Time for which a delivery may be failing before it raises an alert, in seconds."
    )
    alert_quota_percent: float = Field(
        2.0, ge=0, le=50, description="Share of the hourly API calls at or below which an alert is raised."
    )
    notify_urls: SecretStr | None = Field(
        None,
        description=(
            "Apprise URLs that alerts are sent to, separated by spaces: `mailtos://...`, `slack://...`, "
            "`pagerduty://...`. They contain secrets."
        ),
    )
    notify_urls_file: Path | None = Field(
        None, description="File with more such URLs, one per line, readable only for its owner (mode 0600)."
    )
    alert_group_seconds: PositiveFloat = Field(
        900.0,
        description=(
            "Time after a notification about a kind of alert during which further alerts of that kind are "
            "grouped, in seconds."
        ),
    )
    alert_repeat_hours: PositiveFloat = Field(24.0, description="Time between reminders of an open alert, in hours.")

    log_format: Literal["json", "text"] = Field("json", description="`json` for machines, `text` for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")

    @field_validator("dnsimple_api_token")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value().strip()
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ValueError("must be a token: printable ASCII without spaces")
        return SecretStr(token)

    @field_validator("webhook_secret")
    @classmethod
    def _secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            text = value.get_secret_value().strip()
            if not text.isascii() or not text.replace("-", "").replace("_", "").isalnum() or _is_guessable(text):
                raise ValueError(
                    "must be at least 256 random bits, written as A-Z a-z 0-9 - _: make one with "
                    "`python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`, or leave it out"
                )
            return SecretStr(text)
        return value

    @field_validator("private_key_retention")
    @classmethod
    def _keeping(cls, value: str) -> str:
        if value not in {"lineage", "delivered"} and not (value.isascii() and value.isdigit() and int(value) > 0):
            raise ValueError("must be `lineage`, `delivered` or a number of days")
        return value

    @field_validator("notify_urls")
    @classmethod
    def _notify_urls(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all("://" in url for url in value.get_secret_value().split()):
            raise ValueError("must be Apprise URLs such as mailtos://..., separated by spaces")
        return value

    @field_validator("dnsimple_base_url", "public_url", "ari_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        value = value.rstrip("/")
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be a URL such as https://certs.example.com")
        if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ValueError("must begin with https:// (http only for loopback)")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("must have no query, fragment, user or password")
        return value

    @field_validator("dnsimple_base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        if urlsplit(value).path:
            raise ValueError("must have no path: /v2 is added by the client")
        return value

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: str) -> str:
        if value and not value.startswith(("sqlite:///", "postgresql://", "postgresql+psycopg://")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        if not value.startswith("sqlite") and value.partition("?")[0].count("@") > 1:
            raise ValueError("has too many @: in user names and passwords, write it as %40")
        try:
            make_url(value or "sqlite://")
        except (ArgumentError, ValueError):
            raise ValueError("must be a URL such as postgresql://USER:PASSWORD@HOST:PORT/NAME") from None
        return value

    @field_validator("destinations_file", "dnsimple_ca_bundle", "notify_urls_file")
    @classmethod
    def _file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError("must name a file that exists")
        return value

    @model_validator(mode="before")
    @classmethod
    def _defaults_in_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in values.items() if value is not None and value != ""}
        for name in (*_SECRETS_FROM_FILES, "key_encryption_key"):
            if name in given and f"{name}_file" in given:
                raise ValueError(f"{name.upper()} and {name.upper()}_FILE are both set: remove one of them")
        for name in _SECRETS_FROM_FILES:
            if f"{name}_file" in given:
                try:
                    given[name] = read_secret_file(Path(given[f"{name}_file"]))
                except SecretFileError as error:
                    raise ValueError(f"{name.upper()}_FILE: {error}") from None
        data_dir = Path(given.get("data_dir") or "var")
        given.setdefault("database_url", f"sqlite:///{data_dir / 'certcourier.db'}")
        if "key_encryption_key" not in given:
            given.setdefault("key_encryption_key_file", data_dir / "key-encryption.key")
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        file = Path(self.database_url.removeprefix("sqlite:///").partition("?")[0])
        if self.is_sqlite and not file.absolute().is_relative_to(self.data_dir.absolute()) and not file.parent.is_dir():
            raise ValueError(f"DATABASE_URL: the folder {file.parent} does not exist; create it, or correct the path")
        if self.is_sqlite and (self.web_workers or 1) > 1:
            raise ValueError(
                "WEB_WORKERS: must be 1 on SQLite, whose writers share commits in one process; "
                "set DATABASE_URL to PostgreSQL for more"
            )
        if self.job_lease_seconds < self.order_wait_seconds / 10:
            raise ValueError("JOB_LEASE_SECONDS: must be at least a tenth of ORDER_WAIT_SECONDS")
        return self

    @property
    def is_sqlite(self) -> bool:
        return self.database_url.startswith("sqlite")

    @property
    def kek_file(self) -> Path:
        """The file of the key-encryption keys; not used if KEY_ENCRYPTION_KEY is set."""
        return self.key_encryption_key_file or self.data_dir / "key-encryption.key"


def load_settings(**given: Any) -> Settings:
    """Read the settings; `given` values override the environment.

    Raises `ConfigurationError`, which names every invalid variable and contains no values.
    """
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
    # Outside the handler: the library's error, which contains values, must not become the context of ours.
    raise ConfigurationError("\n".join(_explain(dict(problem)) for problem in problems))


_PLAIN = {
    "missing": "is missing",
    "tuple_type": 'must be a list, e.g. ["one", "two"]',
    "list_type": 'must be a list, e.g. ["one", "two"]',
    "string_type": "must be a text in quotes",
    "path_type": "must be a path in quotes",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a table of names and values",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
}


def plain_message(problem: Mapping[str, Any]) -> str:
    """The message of a pydantic error, worded for an operator. Contains no value."""
    found = _PLAIN.get(problem["type"])
    return found or str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _explain(problem: dict[str, Any]) -> str:
    message = plain_message(problem)
    if not problem["loc"]:
        return f"  {message}"
    if problem["type"] == "missing":
        message += "; " + (Settings.model_fields[str(problem["loc"][0])].description or "")
    return f"  {str(problem['loc'][0]).upper()}: {message}"
