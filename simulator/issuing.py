"""What DNSimple does in the background: issues requested certificates and renews expiring ones."""

from __future__ import annotations

import heapq
import threading
from typing import Literal

from simulator.authority import new_key
from simulator.catalogue import Dice
from simulator.clock import Clock
from simulator.settings import Settings
from simulator.state import Certificate, State
from simulator.webhooks import Sender

_DAY = 86400.0
_LOOK_SECONDS = 60.0
_BAD_ENDS = ("failed", "rejected", "cancelled", "refunded")


class Issuer:
    """A thread that completes requested certificates when they are due."""

    def __init__(self, settings: Settings, state: State, clock: Clock, sender: Sender, dice: Dice) -> None:
        self._settings = settings
        self._dice = dice
        self._state = state
        self._clock = clock
        self._sender = sender
        self._outcomes: dict[tuple[str, str | None], str] = {}
        self._lifetimes: dict[str, float] = {}
        self._due: list[tuple[float, int]] = []
        self._renewals: list[tuple[float, int]] = []
        self._changed = threading.Condition(state.lock)
        self._stopping = False
        self._at_hand = False
        self._thread = threading.Thread(target=self._run, name="issuer", daemon=True)

    def start(self) -> None:
        """Resume issuances that were pending when the simulator stopped."""
        with self._changed:
            for certificate in self._state.certificates.values():
                if certificate.state == "requesting" and certificate.issue_due is not None:
                    heapq.heappush(self._due, (certificate.issue_due, certificate.id))
            self._schedule_renewals()
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def request(self, certificate: Certificate, *, delay: float | None = None) -> None:
        """Start issuing a certificate, as the issue call does; `delay` in seconds replaces the default."""
        with self._changed:
            certificate.state = "requesting"
            certificate.updated_at = self._clock.now()
            certificate.issue_due = self._clock.now() + (self._settings.issue_delay if delay is None else delay)
            self._state.save(certificate)
            heapq.heappush(self._due, (certificate.issue_due, certificate.id))
            self._changed.notify()

    def script(self, domain: str, name: str | None, state: str) -> None:
        """Set the final state of the next certificates of a domain or one of its names; `requesting`: never final."""
        self._outcomes[domain, name] = state

    def set_lifetime(self, domain: str, days: float) -> None:
        """Set the lifetime of new certificates of a domain, in days."""
        self._lifetimes[domain] = days

    def wake(self) -> None:
        """Recompute due times after the clock or the settings have changed."""
        with self._changed:
            self._schedule_renewals()
            self._changed.notify()

    def is_idle(self) -> bool:
        """Whether everything that is due has been issued or has failed."""
        with self._changed:
            now = self._clock.now()
            return not self._at_hand and not any(heap and heap[0][0] <= now for heap in (self._due, self._renewals))

    def renew(self, old: Certificate, *, issue: Literal["now", "later"] = "later") -> Certificate:
        """Create a successor as auto-renewal does: new ID, new key, same names, and no visible link between them."""
        with self._changed:
            now = self._clock.now()
            number = self._state.new_id("certificate")
            new = Certificate(
                id=number,
                domain_id=old.domain_id,
                name=old.name,
                common_name=old.common_name,
                alternate_names=old.alternate_names,
                names=old.names,
                auto_renew=old.auto_renew,
                algorithm=old.algorithm,
                created_at=now,
                updated_at=now,
                purchase_id=number,
                renews=old.id,
                by_hand=issue == "later",
            )
            old.renewed = True
            self._state.save(new, old)
        if issue == "now":
            self.request(new)
        return new

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopping:
                    return
                self._renew_what_expires()
                due = self._take_due()
                if due is None:
                    next_times = [heap[0][0] for heap in (self._due, self._renewals) if heap]
                    wait = min(next_times) - self._clock.now() if next_times else _LOOK_SECONDS
                    self._changed.wait(min(max(wait, 0.001), _LOOK_SECONDS))
                    continue
                self._at_hand = True
            self._finish(due)
            self._at_hand = False

    def _take_due(self) -> Certificate | None:
        if self._due and self._due[0][0] <= self._clock.now():
            return self._state.certificates[heapq.heappop(self._due)[1]]
        return None

    def _finish(self, certificate: Certificate) -> None:
        domain = self._state.domains[certificate.domain_id]
        scripted = self._outcomes.get((domain.name, certificate.name)) or self._outcomes.get((domain.name, None))
        by_chance = next((end for end in _BAD_ENDS if self._dice.hits(f"certificate-{end}")), "issued")
        outcome = scripted or (by_chance if domain.delegated else "failed")
        if outcome == "issued":
            self._issue(certificate)
        elif outcome != "requesting":
            with self._changed:
                certificate.state = outcome
                self._state.mishaps[certificate.domain_id] += 1
                certificate.updated_at = self._clock.now()
                self._state.save(certificate)  # and no event: none is documented (contract, section 2.5)
                self._renewal_failed(certificate)

    def _renewal_failed(self, certificate: Certificate) -> None:
        """Schedule a retry after a day (contract, section 2.4). Only automatic renewals send an event."""
        old = self._state.certificates.get(certificate.renews or 0)
        if old is None:
            return
        old.renewed, old.retry_at = False, self._clock.now() + self._settings.renew_retry_days * _DAY
        self._state.save(old)
        self._schedule_renewal(old)
        if not certificate.by_hand:
            self._sender.send("certificate.auto_renewal_failed", {"certificate": old.document()})

    def reissue(self, certificate: Certificate) -> None:
        """Issue a new key and X.509 under the same ID, and send the event."""
        self._issue(certificate, "certificate.reissue")

    def set_auto_renew(self, certificate: Certificate, *, enabled: bool) -> None:
        """Change auto-renewal as in DNSimple's web interface, and send the event."""
        with self._changed:
            certificate.auto_renew = enabled
            self._state.save(certificate)
            self._schedule_renewals()
            event = f"certificate.auto_renewal_{'enable' if enabled else 'disable'}"
            self._sender.send(event, {"certificate": certificate.document()})
            self._changed.notify()

    def _issue(self, certificate: Certificate, event: str = "certificate.issue") -> None:
        now = self._clock.now()
        domain = self._state.domains[certificate.domain_id].name
        days = self._lifetimes.get(domain, self._settings.validity_days)
        expires = now - self._settings.backdate + days * _DAY
        issued = self._state.authority.issue(
            certificate.names, certificate.algorithm, not_before=now - self._settings.backdate, not_after=expires
        )
        chain, key = issued.chain, issued.private_key
        if self._dice.hits("chain-reversed"):
            chain = [self._state.authority.root.rstrip("\n"), *reversed(chain)]
        if self._dice.hits("wrong-key"):
            key = new_key(certificate.algorithm)
        with self._changed:
            certificate.server, certificate.chain = issued.certificate, chain
            certificate.private_key = None if self._dice.hits("key-removed") else key
            certificate.csr, certificate.serial = issued.csr, issued.serial
            certificate.state = "issued"
            certificate.expires_at = float(int(expires))
            certificate.issued_at = certificate.updated_at = now
            self._state.save(certificate)
            self._schedule_renewal(certificate)
            self._sender.send(event, {"certificate": certificate.document()})

    def _renew_what_expires(self) -> None:
        now = self._clock.now()
        while self._renewals and self._renewals[0][0] <= now:
            certificate = self._state.certificates[heapq.heappop(self._renewals)[1]]
            is_open = not certificate.renewed and certificate.auto_renew and certificate.retry_at <= now
            if is_open and certificate.state == "issued" and now < (certificate.expires_at or 0):
                self.renew(certificate, issue="now")

    def _schedule_renewals(self) -> None:
        self._renewals.clear()
        for certificate in self._state.certificates.values():
            if certificate.state == "issued" and not certificate.renewed:
                self._schedule_renewal(certificate)

    def _schedule_renewal(self, certificate: Certificate) -> None:
        if certificate.auto_renew and certificate.expires_at is not None:
            lifetime = certificate.expires_at - (certificate.issued_at or 0)
            lead = min(self._settings.renew_before_days * _DAY, lifetime / 2)
            heapq.heappush(self._renewals, (max(certificate.expires_at - lead, certificate.retry_at), certificate.id))
