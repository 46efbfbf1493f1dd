"""DNSimple's calls as typed methods (contract, section 1)."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app.crypto.private_key import PrivateKey
from app.dnsimple import errors, models
from app.dnsimple.budgeted_calls import Answer, Budget, BudgetedCalls, Purpose, UnlimitedBudget
from app.dnsimple.models import Certificate, Domain, Download, Identity, Purchase, Renewal, Webhook, Zone
from app.dnsimple.transport import Call, Deadline, Transport
from app.identifiers import is_id

__all__ = [
    "Answer",
    "Certificate",
    "DNSimple",
    "Deadline",
    "Domain",
    "Download",
    "Identity",
    "PrivateKey",
    "Purchase",
    "Purpose",
    "Renewal",
    "Webhook",
    "Zone",
]

_PAGE_SIZE = 100
_MOST_PAGES = 1000
_DOMAIN = re.compile(r"(?=.{3,253}\Z)(?:(?!-)[a-z0-9-]{1,63}(?<!-)\.)+(?!-)[a-z0-9-]{1,63}(?<!-)")
_CERTIFICATES = "/{account}/domains/{domain}/certificates"
_CERTIFICATE = _CERTIFICATES + "/{certificate}"
_ORDERS = _CERTIFICATES + "/letsencrypt"


class DNSimple:
    """One account at DNSimple. Safe for many threads and across forks.

    Every method raises the errors of `app.dnsimple.errors`. After its `deadline`, nothing is sent and no response is
    awaited. A domain is given by its name in A-labels or, where `int` is allowed, by its numeric ID. Values in paths
    are validated, since the library does not quote them.
    """

    def __init__(
        self,
        *,
        account_id: int,
        token: str,
        base_url: str = "https://api.dnsimple.com",
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        pool_size: int = 16,
        user_agent: str = "certcourier",
        ca_bundle: str | None = None,
        budget: Budget | None = None,
    ) -> None:
        """Timeouts are in seconds. `budget` permits each call and learns its status and quota, never its contents.

        Raises `ValueError` if the token is malformed; the message does not contain it.
        """
        self._account = _checked_id(account_id)
        self._transport = Transport(
            token=token,
            base_url=base_url,
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            pool_size=pool_size,
            user_agent=user_agent,
            ca_bundle=ca_bundle,
        )
        self._calls = BudgetedCalls(budget or UnlimitedBudget())

    def with_purpose(self, purpose: Purpose) -> DNSimple:
        """The same account, but calls use another part of the quota."""
        return self._with_calls(self._calls.with_purpose(purpose))

    @contextmanager
    def reserve(self, calls: int) -> Iterator[DNSimple]:
        """The same account with this number of calls reserved, all or none: for calls that are useless separately."""
        with self._calls.reserve(calls) as reserved:
            yield self._with_calls(reserved)

    def with_observer(self, observe: Callable[[Answer], None]) -> DNSimple:
        """The same account, but `observe` is called with the outcome of each call."""
        return self._with_calls(self._calls.with_observer(observe))

    def read_only(self) -> DNSimple:
        """The same account, but a rejected token does not block other callers: for checking the token."""
        return self._with_calls(self._calls.read_only())

    def _with_calls(self, budgeted_calls: BudgetedCalls) -> DNSimple:
        other = copy.copy(self)
        other._calls = budgeted_calls
        return other

    def whoami(self, *, deadline: Deadline | None = None) -> Identity:
        """Whose token this is."""
        return self._one(Call("GET", "/whoami", {}, 200), models.identity, deadline)

    def domain(self, reference: str | int, *, deadline: Deadline | None = None) -> Domain:
        """One domain of the account."""
        return self._one(self._call("GET", "/{account}/domains/{domain}", domain=reference), models.domain, deadline)

    def domains(self, page: int, *, deadline: Deadline | None = None) -> tuple[list[Domain], int]:
        """A page of the domains that the token may see, oldest first, and the number of the last page."""
        return self._page(
            self._call("GET", "/{account}/domains"), {"sort": "id:asc", "page": page}, models.domain, deadline
        )

    def zone(self, domain: str, *, deadline: Deadline | None = None) -> Zone:
        """A domain's zone."""
        return self._one(self._call("GET", "/{account}/zones/{domain}", domain=domain), models.zone, deadline)

    def certificates(self, domain: str | int, *, deadline: Deadline | None = None) -> Iterator[Certificate]:
        """A domain's certificates, newest first, page by page as they are needed."""
        return self._all(_CERTIFICATES, {"domain": domain}, {"sort": "id:desc"}, models.certificate, deadline)

    def certificate(self, domain: str | int, certificate_id: int, *, deadline: Deadline | None = None) -> Certificate:
        """One certificate of this domain."""
        call = self._call("GET", _CERTIFICATE, domain=domain, certificate=certificate_id)
        return self._one(call, models.certificate, deadline)

    def download(self, domain: str | int, certificate_id: int, *, deadline: Deadline | None = None) -> Download:
        """An issued certificate and its chain. `NotIssuedYetError` before."""
        call = self._call("GET", _CERTIFICATE + "/download", domain=domain, certificate=certificate_id)
        return self._one(call, models.download, deadline)

    def private_key(self, domain: str | int, certificate_id: int, *, deadline: Deadline | None = None) -> PrivateKey:
        """An issued certificate's private key. `NotIssuedYetError` before, and when it was removed."""
        call = self._call("GET", _CERTIFICATE + "/private_key", domain=domain, certificate=certificate_id)
        return self._one(call, models.private_key, deadline)

    def purchase(
        self,
        domain: str,
        *,
        name: str,
        alternate_names: Sequence[str],
        auto_renew: bool,
        signature_algorithm: str,
        deadline: Deadline | None = None,
    ) -> Purchase:
        """Purchase a Let's Encrypt certificate. Not idempotent: after `LostAnswerError`, check before retrying."""
        body: dict[str, Any] = {
            "name": name,
            "auto_renew": auto_renew,
            "signature_algorithm": signature_algorithm,
        }
        if alternate_names:  # even an empty list might require a feature that the plan lacks
            body["alternate_names"] = list(alternate_names)
        return self._one(self._call("POST", _ORDERS, 201, body, domain=domain), models.purchase, deadline)

    def issue(self, domain: str, certificate_id: int, *, deadline: Deadline | None = None) -> Certificate:
        """Request the issuance of a purchased certificate."""
        call = self._call("POST", _ORDERS + "/{certificate}/issue", 202, domain=domain, certificate=certificate_id)
        return self._one(call, models.certificate, deadline)

    def order_renewal(
        self,
        domain: str,
        certificate_id: int,
        *,
        auto_renew: bool,
        signature_algorithm: str,
        deadline: Deadline | None = None,
    ) -> Renewal:
        """Purchase the renewal of a certificate. Neither option is inherited. Not idempotent."""
        body = {"auto_renew": auto_renew, "signature_algorithm": signature_algorithm}
        path = _ORDERS + "/{certificate}/renewals"
        call = self._call("POST", path, 201, body, domain=domain, certificate=certificate_id)
        return self._one(call, models.renewal, deadline)

    def issue_renewal(
        self, domain: str, certificate_id: int, renewal_id: int, *, deadline: Deadline | None = None
    ) -> Certificate:
        """Request the issuance of a purchased renewal; returns the new certificate. `certificate_id` is the old one."""
        path = _ORDERS + "/{certificate}/renewals/{renewal}/issue"
        call = self._call("POST", path, 202, domain=domain, certificate=certificate_id, renewal=renewal_id)
        return self._one(call, models.certificate, deadline)

    def webhooks(self, *, deadline: Deadline | None = None) -> list[Webhook]:
        """All webhooks of the account, ours and others'."""
        call = self._call("GET", "/{account}/webhooks")
        return self._read(call, lambda document: [models.webhook(item) for item in _items(document)], deadline)

    def create_webhook(self, url: str, *, deadline: Deadline | None = None) -> Webhook:
        """Register a URL for every event of the account. Not idempotent."""
        return self._one(self._call("POST", "/{account}/webhooks", 201, {"url": url}), models.webhook, deadline)

    def delete_webhook(self, webhook_id: int, *, deadline: Deadline | None = None) -> None:
        """Delete a webhook; succeeds if it does not exist."""
        try:
            call = self._call("DELETE", "/{account}/webhooks/{webhook}", 204, webhook=webhook_id)
            self._transport.send(call, deadline, self._calls)
        except errors.NotFoundError:
            return

    def _call(
        self, method: str, path: str, expected: int = 200, body: dict[str, Any] | None = None, **values: object
    ) -> Call:
        checked: dict[str, str | int] = {"account": self._account}
        for name, value in values.items():
            checked[name] = _checked_domain(value) if name == "domain" else _checked_id(value)
        return Call(method, path, checked, expected, body)

    def _one[T](self, call: Call, build: Callable[[dict[str, Any]], T], deadline: Deadline | None) -> T:
        return self._read(call, lambda document: build(_object(document["data"])), deadline)

    def _all[T](
        self,
        path: str,
        domain: dict[str, Any],
        query: dict[str, Any],
        build: Callable[[dict[str, Any]], T],
        deadline: Deadline | None,
    ) -> Iterator[T]:
        for page in range(1, _MOST_PAGES + 1):
            items, last = self._page(self._call("GET", path, **domain), query | {"page": page}, build, deadline)
            yield from items
            if page >= last:
                return

    def _page[T](
        self, call: Call, query: dict[str, Any], build: Callable[[dict[str, Any]], T], deadline: Deadline | None
    ) -> tuple[list[T], int]:
        paged = replace(call, query=query | {"per_page": _PAGE_SIZE})
        return self._read(paged, lambda document: _page(document, build), deadline)

    def _read[T](self, call: Call, build: Callable[[dict[str, Any]], T], deadline: Deadline | None) -> T:
        document = self._transport.send(call, deadline, self._calls)
        try:
            return build(document)
        except models.MalformedAnswerError as error:
            message = f"unusable response from DNSimple: {error}"
            if call.only_asks:
                raise errors.ServerFaultError(message) from None
            raise errors.LostAnswerError(f"{message}; the request may have taken effect") from None


def _checked_domain(value: object) -> str | int:
    if isinstance(value, int):
        return _checked_id(value)
    if not isinstance(value, str) or not _DOMAIN.fullmatch(value):
        raise errors.InvalidReferenceError(f"not sent to DNSimple: {str(value)[:80]!r} is not a domain in A-labels")
    return value


def _checked_id(value: object) -> int:
    if not is_id(value):
        raise errors.InvalidReferenceError(f"not sent to DNSimple: {str(value)[:80]!r} is not an ID")
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise models.MalformedAnswerError("data is not an object")
    return value


def _items(document: dict[str, Any]) -> list[dict[str, Any]]:
    if not isinstance(document["data"], list):
        raise models.MalformedAnswerError("data is not a list")
    return [_object(item) for item in document["data"]]


def _page[T](document: dict[str, Any], build: Callable[[dict[str, Any]], T]) -> tuple[list[T], int]:
    """A page's items and the number of the last page; a list without `pagination` is all on one page."""
    items = [build(item) for item in _items(document)]
    pagination = document.get("pagination")
    last = pagination.get("total_pages") if isinstance(pagination, dict) else 1
    return items, last if isinstance(last, int) else 1
