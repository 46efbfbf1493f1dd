"""The children of `make run`, and the ports that they listen on."""

from __future__ import annotations

import errno
import socket
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from launcher.folder import FolderLock, LaunchError

READY_SECONDS = 60
_STOP_SECONDS = 30


@dataclass
class Processes:
    """The children, in the order in which they were started."""

    lock: FolderLock
    logs: Path | None
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        """Start a child in a process group of its own, so that Ctrl-C reaches us first and it is ended in order.

        It holds the folder's lock too: should we be killed, the folder stays taken for as long as it runs.
        """
        output = (self.logs / f"{name}.log").open("ab") if self.logs else None
        self.running[name] = subprocess.Popen(  # noqa: S603, our own programs
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=(self.lock.fileno,),
        )
        if output:
            output.close()
        self.lock.note(name, self.running[name].pid)

    def check(self) -> None:
        """Raise `LaunchError` if one has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise LaunchError(f"{name} has ended with status {process.returncode}. {self._last_words(name)}")

    def wait_listening(self, host: str, port: int) -> None:
        """Until somebody listens there. Raises `LaunchError` after a minute, or when a child has ended."""
        for _ in range(READY_SECONDS * 10):
            self.check()
            with suppress(OSError), socket.create_connection((reachable(host), port), timeout=1):
                return
            threading.Event().wait(0.1)
        raise LaunchError(f"nobody listens on port {port} after {READY_SECONDS} seconds")

    def stop(self) -> None:
        """End them in the reverse order, gracefully, and with force only after half a minute."""
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _last_words(self, name: str) -> str:
        if self.logs is None:
            return "Its messages are above."
        file = self.logs / f"{name}.log"
        return f"The end of {file}:\n" + "\n".join(file.read_text(errors="replace").splitlines()[-12:])


def check_free(listeners: Mapping[str, tuple[str, int]]) -> None:
    """Raise `LaunchError` if somebody listens already where we want to: by variable, the address and the port."""
    busy = [name for name, (host, port) in listeners.items() if not _is_free(host, port)]
    if busy:
        ports = " and ".join(f"port {listeners[name][1]}" for name in busy)
        raise LaunchError(
            f"{ports} {'are' if len(busy) > 1 else 'is'} in use by another program. Stop it, or choose other ports:\n"
            f"  {other_ports(listeners)} make run"
        )


def other_ports(listeners: Mapping[str, tuple[str, int]]) -> str:
    """Variables with ports that are free, as one writes them before a command."""
    return " ".join(f"{name}={_free_one(host, port)}" for name, (host, port) in listeners.items())


def _free_one(host: str, port: int) -> int:
    return next((other for other in range(port + 100, 65536, 100) if _is_free(host, other)), port - 100)


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LaunchError(f"HOST: cannot listen on {host}: {error.strerror}") from None
            return False
    return True


def reachable(host: str) -> str:
    """An address to connect to for one to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104, compared, not bound
