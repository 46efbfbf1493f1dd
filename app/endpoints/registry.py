"""The configured endpoints: `[[endpoint]]` tables of the destinations file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.destinations.base import DestinationRefusedError, Pattern, takes
from app.destinations.entry_errors import explain_entry
from app.endpoints.starttls import Protocol

_ADDRESS = re.compile(r"(?P<host>\{host\}|\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
# A name that a wildcard covers and that is unlikely to have a certificate of its own.
_BELOW_WILDCARD = "certcourier-check"


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError("must be host:port, e.g. www.example.com:443, 10.0.0.1:993, [2001:db8::1]:443 or {host}:443")
    return match[0]


class Endpoint(BaseModel):
    """The fields of an `[[endpoint]]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Unique name of the endpoint.")
    address: Annotated[str, AfterValidator(_address)] = Field(
        description="`host:port` to connect to; every address of the host is checked. `{host}` is the server name "
        "(`sni`).",
    )
    sni: str | None = Field(
        None,
        pattern=r"^[a-z0-9._-]{1,253}$",
        description="Server name to send. Default: the certificate's common name; for a wildcard, `certcourier-check` "
        "below it.",
    )
    starttls: Protocol | None = Field(
        None,
        description="Protocol that starts TLS: `smtp`, `imap`, `pop3` or `postgresql`. Default: TLS from the start.",
    )
    domains: tuple[Pattern, ...] = Field(
        ("*",), min_length=1, description="Certificates that are served there: patterns as for destinations."
    )
    lineages: tuple[str, ...] = Field(
        (), description="Only these lineages, by the names that `GET /certificates/<id>` shows. Default: all."
    )
    after: tuple[str, ...] = Field(
        (),
        description="Destinations that the endpoint reads from: it is checked once all of them hold the certificate. "
        "Default: all destinations of the certificate.",
    )
    grace_seconds: float = Field(
        300.0,
        gt=0,
        le=86400,
        description="How long after a delivery another certificate may still be served, in seconds.",
    )
    timeout_seconds: float = Field(10.0, gt=0, le=60, description="Time limit of one connection, in seconds.")
    max_concurrency: int = Field(4, ge=1, le=32, description="Concurrent connections of one worker process.")

    def serves(self, lineage: str, names: Iterable[str]) -> bool:
        """Whether the endpoint serves certificates of this lineage with these names."""
        return (not self.lineages or lineage in self.lineages) and takes(self.domains, names)

    def server_name(self, common_name: str) -> str:
        """The server name (SNI) to send."""
        return self.sni or common_name.replace("*", _BELOW_WILDCARD)

    def host_and_port(self, common_name: str) -> tuple[str, int]:
        """Where to connect."""
        host, _, port = self.address.rpartition(":")
        return host.replace("{host}", self.server_name(common_name)).strip("[]"), int(port)


def load_endpoints(file: Path | None, destinations: Collection[str]) -> Mapping[str, Endpoint]:
    """Endpoints by name. Raises `DestinationRefusedError` that names the file, the entry and the field."""
    found: dict[str, Endpoint] = {}
    document = tomllib.loads(file.read_text()) if file else {}
    for number, entry in enumerate(document.get("endpoint", []), start=1):
        try:
            endpoint = Endpoint.model_validate(entry)
        except ValidationError as error:
            problems = explain_entry(error, Endpoint.model_fields)
            raise DestinationRefusedError(f"{file}: endpoint {number}: {problems}") from None
        if endpoint.name in found:
            raise DestinationRefusedError(f"{file}: two endpoints are named {endpoint.name!r}")
        unknown = set(endpoint.after) - set(destinations)
        if unknown:
            names = ", ".join(sorted(unknown))
            raise DestinationRefusedError(f"{file}: endpoint {number}: after: no destination is named {names}")
        found[endpoint.name] = endpoint
    return found
