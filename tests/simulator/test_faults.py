"""The simulator's random faults: each does what the catalogue describes, and a seed reproduces them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from simulator.catalogue import CATALOGUE, Dice
from simulator.scenario import ScenarioError, load
from tests.support.event_receiver import EventReceiver
from tests.support.simulator_api import ORDER, call, issue, issued, leaf, order, register
from tests.support.simulator_process import ROOT, Simulator

SEED = {"seed": 7}
CALLS = {name: kind for name, kind in CATALOGUE.items() if kind.make is not None}
SERVER_FAULTS = {500, 502, 503, 504}


def test_without_rates_nothing_happens() -> None:
    dice = Dice(1, {})
    assert not any(dice.hits(name) for name in CATALOGUE for _ in range(100))
    assert dice.call_fault("before", "/whoami", 0.0) is None


def test_the_same_seed_throws_the_same_faults() -> None:
    def thrown(seed: int) -> list[str | None]:
        dice = Dice(seed, {"slow": 0.1, "reset-before": 0.2, "error-html": 0.3})
        faults = [dice.call_fault("before", "/whoami", 0.0) for _ in range(200)]
        return [f"{fault.name} {fault.status} {fault.delay_seconds}" if fault else None for fault in faults]

    assert thrown(1) == thrown(1)
    assert thrown(1) != thrown(2)
    assert None in thrown(1)
    assert any(fault and fault.startswith("reset-before") for fault in thrown(1))


def test_a_rate_changes_how_often_its_own_fault_happens_and_no_other() -> None:
    """Each fault has a generator of its own: more of one does not shift the others."""
    few, many = (
        Dice(3, {"event-doubled": 0.1, "event-dropped": 0.2}),
        Dice(3, {"event-doubled": 0.9, "event-dropped": 0.2}),
    )
    assert [few.hits("event-dropped") for _ in range(100)] == [many.hits("event-dropped") for _ in range(100)]
    assert sum(few.hits("event-doubled") for _ in range(1000)) < 150
    assert sum(many.hits("event-doubled") for _ in range(1000)) > 850


def test_every_fault_of_calls_is_tested_below() -> None:
    tested = {"slow", "reset-before", "reset-after", "half-body", "no-quota-headers", "odd-quota-headers", *ANSWERED}
    assert set(CALLS) == tested


ANSWERED = {
    "error-json": (SERVER_FAULTS, "application/json"),
    "error-html": (SERVER_FAULTS, "text/html"),
    "error-empty": (SERVER_FAULTS, "text/html"),
    "error-after": (SERVER_FAULTS, "text/html"),
    "unauthorized": ({401}, "application/json"),
    "unpaid": ({402}, "application/json"),
    "forbidden": ({403}, "application/json"),
    "plan-limit": ({412}, "application/json"),
    "not-issued": ({428}, "application/json"),
    "too-many": ({429}, "application/json"),
}


@pytest.mark.parametrize("fault", ANSWERED)
def test_an_answer_can_be_replaced(simulator: Simulator, fault: str) -> None:
    number = issued(simulator)
    before = len(simulator.certificates("example.com"))
    simulator.rates(**{fault: 1})
    if fault == "not-issued":
        answer = call(simulator, "GET", f"/domains/example.com/certificates/{number}/download")
    else:
        answer = order(simulator)
    statuses, content_type = ANSWERED[fault]
    assert answer.status_code in statuses
    assert answer.headers["Content-Type"].startswith(content_type)
    if content_type == "application/json":
        assert set(answer.json()) == {"message"}
    else:
        assert ("html" in answer.text) == (fault != "error-empty")
    if fault == "too-many":
        assert answer.headers["X-RateLimit-Remaining"] == "0"
        assert 0 < int(answer.headers["X-RateLimit-Reset"]) - time.time() <= 4
    simulator.clear_faults()
    assert len(simulator.certificates("example.com")) == before + (fault == "error-after")
    assert order(simulator).status_code == 201


def test_a_fault_affects_only_the_calls_it_applies_to(simulator: Simulator) -> None:
    simulator.rates(**{"plan-limit": 1, "not-issued": 1})
    assert call(simulator, "GET", "/domains/example.com/certificates").status_code == 200
    assert order(simulator).status_code == 412


@pytest.mark.parametrize(("fault", "bought"), [("reset-before", 0), ("reset-after", 1), ("half-body", 1)])
def test_a_connection_can_break_before_and_after_the_call_is_processed(
    simulator: Simulator, fault: str, bought: int
) -> None:
    simulator.rates(**{fault: 1})
    expected = requests.exceptions.ChunkedEncodingError if fault == "half-body" else requests.ConnectionError
    with pytest.raises(expected):
        order(simulator)
    simulator.clear_faults()
    assert len(simulator.certificates("example.com")) == bought
    assert simulator.calls()[0]["fault"] == fault
    assert order(simulator).status_code == 201


def test_an_answer_can_be_slow(simulator: Simulator) -> None:
    simulator.rates(slow=1)
    with pytest.raises(requests.ReadTimeout):
        requests.get(
            f"{simulator.url}/v2/whoami", headers={"Authorization": "Bearer simulated-token"}, timeout=(5, 0.2)
        )
    assert call(simulator, "GET", "/domains/example.com").status_code == 200


@pytest.mark.parametrize("fault", ["no-quota-headers", "odd-quota-headers"])
def test_the_quotas_headers_can_be_missing_or_nonsense(simulator: Simulator, fault: str) -> None:
    def quota() -> dict[str, str]:
        answer = call(simulator, "GET", "/domains/example.com")
        assert answer.status_code == 200
        return {name: value for name, value in answer.headers.items() if name.startswith("X-RateLimit")}

    sane = quota()
    assert len(sane) == 3
    simulator.rates(**{fault: 1})
    odd = quota()
    assert odd == {} if fault == "no-quota-headers" else odd.keys() == sane.keys() and odd != sane


def received(simulator: Simulator, receiver: EventReceiver) -> list[dict[str, Any]]:
    """The certificate events received, in order."""
    simulator.wait_until_delivered()
    events = []
    while not receiver.events.empty():
        events.append(json.loads(receiver.events.get()[1]))
    return [event for event in events if event["name"].startswith("certificate.")]


@pytest.mark.parametrize(("fault", "times"), [("event-doubled", 2), ("event-dropped", 0)])
def test_an_event_can_be_doubled_or_dropped(
    simulator: Simulator, receiver: EventReceiver, fault: str, times: int
) -> None:
    register(simulator, receiver)
    simulator.rates(**{fault: 1})
    number = issue(simulator)
    simulator.wait_until_issued("example.com", number)
    events = received(simulator, receiver)
    assert len(events) == times
    assert len({event["request_identifier"] for event in events}) == min(times, 1)


@pytest.mark.parametrize("simulator", [{"event_delay": 1.0}], indirect=True)
def test_an_event_can_be_delayed(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    receiver.next("webhook.create")
    simulator.rates(**{"event-delayed": 1})
    number = issue(simulator)
    simulator.wait_until_issued("example.com", number)
    assert simulator.state()["outstanding_deliveries"] == 1
    assert receiver.next()["data"]["certificate"]["id"] == number


def test_an_event_can_be_overtaken_by_the_next(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    simulator.rates(**{"event-reordered": 1})
    first = issue(simulator)
    simulator.wait_until_issued("example.com", first)
    simulator.clear_faults()
    second = issue(simulator, "shop")
    simulator.wait_until_issued("example.com", second)
    assert [event["data"]["certificate"]["id"] for event in received(simulator, receiver)] == [second, first]


@pytest.mark.parametrize("simulator", [{"issue_delay": 60.0}], indirect=True)
def test_an_event_can_precede_the_answer_to_the_call_that_causes_it(
    simulator: Simulator, receiver: EventReceiver
) -> None:
    register(simulator, receiver)
    receiver.next("webhook.create")
    simulator.rates(**{"event-early": 1})
    number = simulator.purchase("example.com")
    answer = call(simulator, "POST", f"{ORDER}/{number}/issue", json={})
    assert answer.json()["data"]["state"] == "requesting"
    assert not receiver.events.empty(), "the event was to come first"
    assert receiver.next()["data"]["certificate"]["state"] == "issued"


@pytest.mark.parametrize("fault", ["event-forged", "event-other-account", "event-mixed"])
def test_a_forged_event_is_sent_beside_the_real_one(simulator: Simulator, receiver: EventReceiver, fault: str) -> None:
    register(simulator, receiver)
    simulator.rates(**{fault: 1})
    number = issue(simulator)
    simulator.wait_until_issued("example.com", number)
    domains = simulator.state()["domains"]
    events = received(simulator, receiver)
    seen = {
        (event["account"]["id"], event["data"]["certificate"]["id"], event["data"]["certificate"]["domain_id"])
        for event in events
    }
    real = (1010, number, domains["example.com"])
    assert len(events) == 2
    assert real in seen
    ((account, certificate, domain),) = seen - {real}
    if fault == "event-forged":
        assert certificate != number
        assert domain not in domains.values()
    elif fault == "event-other-account":
        assert (account, certificate) == (1011, number)
    else:
        assert (account, certificate, domain) == (1010, number, domains["other.example"])


def test_an_old_event_can_be_replayed(simulator: Simulator, receiver: EventReceiver) -> None:
    register(simulator, receiver)
    first = issue(simulator)
    simulator.wait_until_issued("example.com", first)
    (original,) = received(simulator, receiver)
    simulator.rates(**{"event-replayed": 1})
    simulator.wait_until_issued("example.com", issue(simulator, "shop"))
    assert [event for event in received(simulator, receiver) if event["data"]["certificate"]["id"] == first] == [
        original
    ]


@pytest.mark.parametrize("state", ["failed", "rejected", "cancelled", "refunded"])
def test_a_certificate_can_end_in_any_failed_state(simulator: Simulator, state: str) -> None:
    simulator.rates(**{f"certificate-{state}": 1})
    simulator.wait_for_state("example.com", issue(simulator), state)


def test_a_key_can_be_removed_already(simulator: Simulator) -> None:
    simulator.rates(**{"key-removed": 1})
    number = issued(simulator)
    answer = call(simulator, "GET", f"/domains/example.com/certificates/{number}/private_key")
    assert (answer.status_code, answer.json()) == (428, {"message": "Private key not present"})


def test_a_chain_can_be_in_the_wrong_order(simulator: Simulator) -> None:
    simulator.rates(**{"chain-reversed": 1})
    number = issued(simulator)
    download = simulator.api("GET", f"/domains/example.com/certificates/{number}/download")
    first, last = (x509.load_pem_x509_certificate(pem.encode()) for pem in download["chain"])
    assert first.issuer == first.subject == last.issuer
    leaf(simulator, number).verify_directly_issued_by(last)


def test_a_key_can_belong_to_another_certificate(simulator: Simulator) -> None:
    simulator.rates(**{"wrong-key": 1})
    number = issued(simulator)
    answer = call(simulator, "GET", f"/domains/example.com/certificates/{number}/private_key").json()
    key = load_pem_private_key(answer["data"]["private_key"].encode(), None)
    assert key.public_key() != leaf(simulator, number).public_key()


def test_injected_faults_can_be_listed(simulator: Simulator) -> None:
    simulator.rates(**{"error-json": 1})
    order(simulator)
    simulator.rates(**{"error-json": 0, "unpaid": 1})
    order(simulator)
    assert simulator.thrown() == {"error-json": 1, "unpaid": 1}
    assert [recorded["fault"] for recorded in simulator.calls()] == ["error-json", "unpaid"]


@pytest.mark.parametrize(
    ("body", "message"),
    [({"sloow": 0.5}, "unknown fault sloow"), ({"slow": 2}, "a number from 0 to 1"), ({"slow": "x"}, "not 'x'")],
)
def test_a_wrong_rate_is_refused(simulator: Simulator, body: dict[str, Any], message: str) -> None:
    answer = requests.post(f"{simulator.url}/_simulator/rates", json=body, timeout=10)
    assert answer.status_code == 400
    assert message in answer.json()["message"]


def test_a_truncated_answer_needs_an_answer_to_truncate(simulator: Simulator) -> None:
    fault = {"method": "GET", "path_template": "/whoami", "action": "half"}
    answer = requests.post(f"{simulator.url}/_simulator/faults", json=fault, timeout=10)
    assert answer.status_code == 400
    assert "when = after" in answer.json()["message"]


@pytest.mark.parametrize("simulator", [{"fault": ["unpaid=1", "slow=0"], **SEED}], indirect=True)
def test_rates_can_be_given_on_the_command_line(simulator: Simulator) -> None:
    found = simulator.control("GET", "/faults")
    assert found == {"seed": 7, "rates": {"unpaid": 1.0, "slow": 0.0}, "thrown": {}, "to_come": 0, "mishaps": {}}
    assert order(simulator).status_code == 402


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulator", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault", "sloow=0.5"], "unknown fault sloow; known faults are slow, reset-before"),
        (["--fault", "slow"], "the rate of slow must be a number from 0 to 1, not ''"),
        (["--fault", "slow=1.5"], "not '1.5'"),
        (["--scenario", "/nowhere.toml"], "/nowhere.toml: No such file or directory"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_faults_can_be_listed() -> None:
    result = run("--list-faults")
    assert result.returncode == 0
    for name in CATALOGUE:
        assert f"| `{name}` |" in result.stdout


def test_the_scenario_of_the_page_works(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "simulator.md").read_text(), re.DOTALL)
    file = tmp_path / "unlucky.toml"
    file.write_text(example)
    with Simulator(scenario=file, seed=43) as simulator:
        faults = simulator.control("GET", "/faults")
        assert faults["seed"] == 43
        assert faults["rates"] == {"reset-after": 0.1, "event-doubled": 0.3, "event-dropped": 0.05}
        simulator.control("POST", "/rates", {"reset-after": 0})
        answer = order(simulator)
        assert (answer.status_code, answer.text) == (502, "<h1>Bad Gateway</h1>")
        assert order(simulator).status_code == 201
        number = simulator.purchase("unlucky.example", name="www")
        simulator.issue("unlucky.example", number)
        simulator.wait_for_state("unlucky.example", number, "failed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("issue-delay = ", "Invalid value"),
        ("issue-dely = 1", "unknown option issue_dely"),
        ("state = 'x.db'", "unknown option state"),
        ("issue-delay = 'x'", "issue_delay must be of type float"),
        ("issue-delay = true", "issue_delay must be of type float"),
        ("domains = 'example.com'", "domains must be of type list"),
        ("rates = 1", "rates must be written as [rates]"),
        ("[rates]\nslow = 2", "the rate of slow must be a number from 0 to 1, not 2"),
        ("[faults]\nmethod = 'GET'", "faults must be written as [[faults]]"),
        ("[[faults]]\nmethod = 'GET'", "path_template"),
        ("[[outcomes]]\ndomain = 'example.com'", "an outcome has the fields domain, state and optionally name"),
        ("[[outcomes]]\ndomain = 'example.com'\nstate = 1", "must be strings"),
    ],
)
def test_a_wrong_scenario_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    with pytest.raises(ScenarioError) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert message in str(refused.value)
