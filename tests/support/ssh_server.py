"""A real OpenSSH server of our own: a child process on a free port, with its own host key and one login."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.support.stack import wait_until

_PRIVILEGE_SEPARATION = Path("/run/sshd")


class SshServer:
    """`config()` gives a destination's fields for it; `stop()` and `start()` may be repeated."""

    def __init__(self, program: str, folder: Path, *, subsystem: str = "internal-sftp") -> None:
        self._program = program
        self.folder = folder
        self.home = folder / "machine"
        self.home.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.login_key = self.new_key("login")
        self.public_key = self.new_host_key()
        (folder / "authorized_keys").write_text(Path(f"{self.login_key}.pub").read_text())
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
            f"Subsystem sftp {subsystem}\nMaxStartups 100\nLogLevel ERROR\n"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def new_key(self, name: str, kind: str = "ssh-ed25519") -> Path:
        """A key pair in files, the private one of mode 0600."""
        key, file = asyncssh.generate_private_key(kind), self.folder / name
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_bytes(key.export_private_key())
        Path(f"{file}.pub").write_bytes(key.export_public_key())
        return file

    def new_host_key(self, kind: str = "ssh-ed25519") -> str:
        """A new host key, in effect after the next `start()`. Returns the public key's line."""
        return Path(f"{self.new_key('host', kind)}.pub").read_text().strip()

    def start(self) -> None:
        """Start the server; returns when it accepts connections."""
        command = [self._program, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log)
        process = self._process

        def listens() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return True
            return False

        wait_until(listens, "sshd listens")

    def stop(self) -> None:
        """Stop accepting connections."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def config(self, **more: Any) -> dict[str, Any]:
        """The fields of a destination for this machine."""
        return {
            "name": "far",
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "private_key_file": self.login_key,
            "host_keys": (self.public_key,),
            "path": str(self.home / "certificates"),
        } | more


@contextmanager
def ssh_server(folder: Path, **options: Any) -> Iterator[SshServer]:
    """A running server, stopped at the end; the test skips where OpenSSH's server is missing or may not run."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("no sshd: install Debian's package `openssh-server`")
    if os.geteuid() == 0 and not _PRIVILEGE_SEPARATION.exists():
        try:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
        except OSError as error:
            pytest.skip(f"sshd needs {_PRIVILEGE_SEPARATION}, which cannot be made: {error.strerror}")
    server = SshServer(program, folder, **options)
    try:
        yield server
    finally:
        server.stop()
