"""The child processes of `make run`, and the ports that they listen on."""

from __future__ import annotations

import errno
import signal
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
        """Start a child in a session of its own, so that Ctrl-C reaches only the launcher, which stops it in order.

        It inherits the directory's lock: if the launcher is killed, the directory stays locked while the child runs.
        """
        output = (self.logs / f"{name}.log").open("ab") if self.logs else None
        self.running[name] = subprocess.Popen(  # noqa: S603, fixed programs
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
        """Raise `LaunchError` if a child has ended."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise LaunchError(f"the {name} {_describe_exit(process.returncode)}. {self._last_output(name)}")

    def wait_listening(self, host: str, port: int) -> None:
        """Wait until the port is open. Raises `LaunchError` after a minute, or if a child has ended."""
        for _ in range(READY_SECONDS * 10):
            self.check()
            with suppress(OSError), socket.create_connection((reachable(host), port), timeout=1):
                return
            threading.Event().wait(0.1)
        raise LaunchError(f"port {port} is not open after {READY_SECONDS} seconds")

    def stop(self) -> None:
        """Stop the children in reverse order: SIGTERM, then SIGKILL after 30 seconds."""
        for process in reversed(self.running.values()):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _last_output(self, name: str) -> str:
        if self.logs is None:
            return "Its messages are above."
        file = self.logs / f"{name}.log"
        return f"Last lines of {file}:\n" + "\n".join(file.read_text(errors="replace").splitlines()[-12:])


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"was killed ({name})"


def check_free(listeners: Mapping[str, tuple[str, int]]) -> None:
    """Raise `LaunchError` if a port is in use. `listeners` are address and port by variable."""
    busy = [name for name, (host, port) in listeners.items() if not _is_free(host, port)]
    if busy:
        ports = " and ".join(f"port {listeners[name][1]}" for name in busy)
        raise LaunchError(
            f"{ports} {'are' if len(busy) > 1 else 'is'} in use by another program. Stop it, or use other ports:\n"
            f"  {other_ports(listeners)} make run"
        )


def other_ports(listeners: Mapping[str, tuple[str, int]]) -> str:
    """Variables with free ports, as they are written before a command."""
    return " ".join(f"{name}={_free_port(host, port)}" for name, (host, port) in listeners.items())


def _free_port(host: str, port: int) -> int:
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
    """The address to connect to for an address to listen on."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104, compared, not bound
