"""The simulator as a separate process, and its control interface for tests."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import requests

ROOT = Path(__file__).resolve().parents[2]
_PERIODIC = {
    ("GET", "/{account}/webhooks"),
    ("GET", "/{account}/domains"),
    ("GET", "/{account}/domains/{domain}/certificates"),
}
# Faults that occur in production now and then and must make no difference: on unless a test disables them.
USUAL_FAULTS = {
    "no-quota-headers": 0.1, "odd-quota-headers": 0.1,
    "event-doubled": 0.2, "event-reordered": 0.2, "event-other-account": 0.2, "event-replayed": 0.2,
}  # fmt: skip


class Simulator:
    """`with Simulator(issue_delay=0.1, any_domain=True) as simulator:`; options as on the command line."""

    def __init__(self, **options: Any) -> None:
        self.options = {"port": 0, "account": 1010, "token": "simulated-token"} | options
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self._session = requests.Session()
        self._session.headers["X-Simulator-Uncounted"] = "1"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Returns when it accepts connections."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "simulator", *self._arguments()], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "listening on" in line, f"the simulator printed {line!r}"
        self.url = line.split()[-1]
        self.options["port"] = int(self.url.rpartition(":")[2])  # the same one when it is started again
        return self

    def stop(self) -> int:
        """Stop the simulator gracefully; returns its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._end()

    def kill(self) -> int:
        """Kill the simulator as a power failure would, its server process first."""
        assert self._process is not None
        for pid in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            subprocess.run(["kill", "-9", pid], check=False)
        self._process.kill()
        return self._end()

    # What happened

    def calls(self) -> list[dict[str, Any]]:
        """Calls of the API, oldest first: method, path_template, path, status, at."""
        found: list[dict[str, Any]] = self.control("GET", "/calls")["calls"]
        return found

    def certificate_calls(self) -> list[dict[str, Any]]:
        """The calls without those of periodic jobs, which may run at any moment."""
        return [call for call in self.calls() if (call["method"], call["path_template"]) not in _PERIODIC]

    def reset_calls(self) -> None:
        self.control("DELETE", "/calls")

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.control("GET", "/state")
        return found

    def certificates(self, domain: str) -> list[dict[str, Any]]:
        """All certificates of the domain, newest first, from all pages."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.api("GET", f"/domains/{domain}/certificates?per_page=100&page={len(found) // 100 + 1}")
            found += page
            if len(page) < 100:
                return found

    def domain_id(self, domain: str) -> int:
        return int(self.api("GET", f"/domains/{domain}")["id"])

    def root_pem(self) -> str:
        return self._session.get(f"{self.url}/_simulator/ca", timeout=10).text

    # Scripting

    def fault(self, **fault: Any) -> None:
        """Script a fault (see `simulator.faults.Fault`)."""
        self.control("POST", "/faults", fault)

    def rates(self, **rates: float) -> None:
        """Random faults with their rates, `_` for `-` (see `simulator.catalogue`)."""
        self.control("POST", "/rates", {name.replace("_", "-"): rate for name, rate in rates.items()})

    def thrown(self) -> dict[str, int]:
        """The number of random faults by kind."""
        found: dict[str, int] = self.control("GET", "/faults")["thrown"]
        return found

    def clear_faults(self) -> None:
        self.control("DELETE", "/faults")

    def usual_faults(self) -> None:
        """Enable the faults that every test tolerates, and no others."""
        self.clear_faults()
        self.control("POST", "/rates", USUAL_FAULTS)

    def outcome(self, domain: str, state: str) -> None:
        self.control("POST", "/outcomes", {"domain": domain, "state": state})

    def renew(self, certificate_id: int) -> int:
        """As auto-renewal does; returns the new ID once it is issued."""
        new = self.control("POST", f"/renew/{certificate_id}", {})
        domain = next(name for name, number in self.state()["domains"].items() if number == new["domain_id"])
        self.wait_until_issued(domain, new["id"])
        return int(new["id"])

    def purchase(self, domain: str, **more: Any) -> int:
        return int(self.api("POST", f"/domains/{domain}/certificates/letsencrypt", more)["certificate_id"])

    def issue(self, domain: str, certificate_id: int) -> None:
        self.api("POST", f"/domains/{domain}/certificates/letsencrypt/{certificate_id}/issue", {})

    # Waiting

    def wait_for_fault(self) -> None:
        """Wait until the last scripted fault has started: its call has arrived, and its answer is delayed."""
        self._wait(lambda: self.control("GET", "/faults")["to_come"] == 0, "the scripted faults")

    def wait_until_issued(self, domain: str, certificate_id: int) -> None:
        self.wait_for_state(domain, certificate_id, "issued")

    def wait_for_state(self, domain: str, certificate_id: int, state: str) -> None:
        path = f"/domains/{domain}/certificates/{certificate_id}"
        self._wait(lambda: self.api("GET", path)["state"] == state, f"{certificate_id} {state}")

    def wait_for_certificates(self, domain: str, count: int) -> None:
        self._wait(lambda: len(self.certificates(domain)) == count, f"{count} certificates")

    def wait_for_webhooks(self, count: int) -> None:
        self._wait(lambda: len(self.api("GET", "/webhooks")) == count, f"{count} webhooks")

    def wait_until_idle(self) -> None:
        """Wait until every issuance that is due has finished."""
        self._wait(lambda: bool(self.state()["idle"]), "everything that is due")

    def wait_until_delivered(self) -> None:
        """Wait until no certificate is being issued and no event is undelivered."""

        def settled() -> bool:
            state = self.state()
            return not state["outstanding_deliveries"] and not state["certificates"].get("requesting")

        self._wait(settled, "all events delivered")

    # The interfaces themselves

    def control(self, method: str, path: str, json: dict[str, Any] | None = None) -> Any:
        answer = self._session.request(method, f"{self.url}/_simulator{path}", json=json, timeout=10)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def api(self, method: str, path: str, json: dict[str, Any] | None = None) -> Any:
        """`data` of a call that is not counted."""
        url = f"{self.url}/v2/{self.options['account']}{path}"
        answer = self._session.request(method, url, json=json, timeout=10)
        assert answer.ok, answer.text
        return answer.json()["data"] if answer.content else None

    def optional(self, method: str, path: str) -> Any:
        """The same, or None where the API refuses."""
        url = f"{self.url}/v2/{self.options['account']}{path}"
        answer = self._session.request(method, url, timeout=10)
        return answer.json()["data"] if answer.ok else None

    def _arguments(self) -> list[str]:
        found = []
        for name, value in self.options.items():
            flag = "--" + name.replace("_", "-")
            if value is True:
                found.append(flag)
            elif isinstance(value, list):
                found += [part for item in value for part in (flag, str(item))]
            elif value is not False:
                found += [flag, str(value)]
        return found

    def _wait(self, look: Callable[[], bool], what: str, seconds: float = 15.0) -> None:
        pause, end = threading.Event(), time.monotonic() + seconds
        while not look():
            assert time.monotonic() < end, f"not within {seconds} seconds: {what}"
            pause.wait(0.02)

    def _end(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        status = self._process.wait(10)
        self._process.stdout.close()
        self._process = None
        self._session.close()
        return status
