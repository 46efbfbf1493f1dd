"""The simulator under gunicorn: one process, many threads, real connections."""

from __future__ import annotations

import logging
import socket
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from simulator import account_api, certificates_api, control, renewal_info
from simulator.api import PREFIX, World, add_domain, guard
from simulator.catalogue import Dice
from simulator.clock import Clock
from simulator.faults import Faults
from simulator.issuing import Issuer
from simulator.quota import Quota
from simulator.scenario import Scenario
from simulator.settings import Settings
from simulator.state import State
from simulator.webhooks import Sender


def create_world(settings: Settings, scenario: Scenario) -> World:
    """Create the parts without starting their threads."""
    clock, state = Clock(), State(settings.state)
    dice = Dice(settings.seed, settings.rates)
    sender = Sender(settings, state, clock, dice)
    issuer = Issuer(settings, state, clock, sender, dice)
    faults = Faults(dice)
    for fault in scenario.faults:
        faults.add(fault)
    for outcome in scenario.outcomes:
        issuer.script(outcome["domain"], outcome.get("name"), outcome["state"])
    return World(settings, clock, state, Quota(settings, clock), dice, faults, sender, issuer)


def create_app(world: World) -> Flask:
    """The API and the control interface."""
    app = Flask(__name__, static_folder=None)
    app.extensions["simulator"] = world
    app.json.sort_keys = False  # type: ignore[attr-defined]  # fields in DNSimple's order
    for module in (account_api, certificates_api):
        guard(app, module.blueprint)
        app.register_blueprint(module.blueprint, url_prefix=PREFIX)
    app.register_blueprint(renewal_info.blueprint)
    app.register_blueprint(control.blueprint)
    with app.app_context():
        for name in world.settings.domains:
            if name.lower() not in world.state.domain_ids:
                add_domain(name)
    return app


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Everything runs in gunicorn's single worker process, because threads do not survive a fork."""

    def __init__(self, settings: Settings, listener: socket.socket, scenario: Scenario) -> None:
        self._settings = settings
        self._scenario = scenario
        self._address = listener.getsockname()[:2]
        self._listener = listener.detach()  # gunicorn owns it now
        self._world: World | None = None
        super().__init__()

    def load_config(self) -> None:
        """Called by gunicorn for its settings."""
        values: dict[str, Any] = {
            "bind": f"fd://{self._listener}",
            "worker_class": "gthread",
            "workers": 1,
            "threads": self._settings.threads,
            "worker_connections": 1000,
            "keepalive": 30,
            "timeout": 0,
            "graceful_timeout": 1,
            "loglevel": "info" if self._settings.verbose else "error",
            "control_socket_disable": True,
            "when_ready": self._announce,
            "worker_exit": self._stop,
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called by gunicorn for the application, in the worker process."""
        if self._settings.verbose:
            logging.getLogger("simulator").setLevel(logging.INFO)
            logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
        self._world = create_world(self._settings, self._scenario)
        self._world.sender.start()
        self._world.issuer.start()
        return create_app(self._world)

    def _announce(self, _arbiter: Any) -> None:
        host, port = self._address
        print(f"DNSimple simulator listening on http://{host}:{port}", flush=True)

    def _stop(self, _arbiter: Any, _worker: Any) -> None:
        if self._world is not None:
            self._world.issuer.stop()
            self._world.sender.stop()
            self._world.state.close()
