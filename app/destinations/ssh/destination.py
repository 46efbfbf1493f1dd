"""Certificates as files on another host, pushed by SFTP in the layout of `files`. Nothing is installed there.

With asyncssh, which supports fsync and file modes at creation, and whose coroutines can be cancelled at a time limit.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import asyncssh
from pydantic import AfterValidator, Field

from app.destinations.base import (
    Bundle,
    DeliveryResult,
    DestinationConfig,
    DestinationRefusedError,
    DestinationUnavailableError,
)
from app.destinations.credentials import read_credential
from app.destinations.ssh.remote_slot import RemoteSlot

asyncssh.set_log_level("WARNING")  # else it logs every connection and request

_OUTPUT_SHOWN = 2000
_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
# A writer's turn takes three round trips; this is how long a dead writer is waited for (see `remote_slot`).
_PATIENCE_SECONDS = 10.0
# Ended shortly before the service's time limit, which would abandon the thread.
_SHARE_OF_TIMEOUT = 0.95


def _host_key(text: str) -> str:
    """A line of known_hosts or of a public key file, or a fingerprint as `ssh-keygen -l` shows it."""
    pin = text.strip()
    if pin.startswith("SHA256:") and len(pin) == len("SHA256:") + 43:
        return pin
    words = pin.split()
    for start in (0, 1):
        try:
            key = asyncssh.import_public_key(" ".join(words[start : start + 2]))
        except asyncssh.KeyImportError:
            continue
        return key.export_public_key("openssh").decode().strip()
    raise ValueError("must be `SHA256:...` or a line such as `ssh-ed25519 AAAA...`, as ssh-keyscan prints it")


class SshConfig(DestinationConfig):
    """`[[destination]]` with `kind = "ssh"`."""

    kind: Literal["ssh"] = "ssh"
    host: str = Field(min_length=1, description="Name or address of the host.")
    port: int = Field(22, ge=1, le=65535, description="Port of its SSH server.")
    user: str = Field(min_length=1, description="User to log in as; owns the files.")
    private_key_file: Path = Field(
        description="File with the private key for the login, mode 0600, without passphrase."
    )
    host_keys: tuple[Annotated[str, AfterValidator(_host_key)], ...] = Field(
        min_length=1,
        description="Trusted host keys, each as `ssh-ed25519 AAAA...` or `SHA256:...`.",
    )
    path: PurePosixPath = Field(
        description="Folder there that holds one folder per lineage; relative paths are relative to the user's home."
    )
    keep_versions: int = Field(3, ge=0, description="Previous versions kept beside the current one.")
    command: tuple[str, ...] | None = Field(
        None, min_length=1, description="Program and arguments to run there after each delivery, as a list."
    )


class _PinnedHost(asyncssh.SSHClient):
    """Trusts only the configured host keys; remembers another one that was presented."""

    def __init__(self, pins: tuple[str, ...]) -> None:
        self._pins = pins
        self.rejected: str | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        shown = (key.get_fingerprint("sha256"), key.export_public_key("openssh").decode().strip())
        words = (shown[0], " ".join(shown[1].split()[:2]))
        if any(pin in words for pin in self._pins):
            return True
        self.rejected = f"{key.get_algorithm()} {words[0]}"
        return False


class SshDestination:
    """Writes versioned folders over SFTP and switches one symbolic link there."""

    Config = SshConfig

    def __init__(self, config: SshConfig, *, patience: float = _PATIENCE_SECONDS) -> None:
        self._config = config
        self._patience = min(patience, config.timeout_seconds / 3)

    @property
    def config(self) -> SshConfig:
        return self._config

    def deliver(self, bundle: Bundle) -> DeliveryResult:
        return self._run(self._deliver(bundle))

    def check(self) -> None:
        """Checks without a connection: a host that is down must not prevent the worker from starting."""
        self._login_key()

    def _run[T](self, action: Coroutine[Any, Any, T]) -> T:
        """The action's result. Raises every failure as one of the two errors, with what to change."""
        where = f"destination {self._config.name}: {self._config.host} port {self._config.port}"
        try:
            return asyncio.run(action)
        except TimeoutError:
            raise DestinationUnavailableError(f"{where}: not finished in time (timeout_seconds)") from None
        except asyncssh.PermissionDenied:
            raise DestinationRefusedError(
                f"{where} rejected the login of {self._config.user} with private_key_file; add its public key "
                "to the user's authorized_keys"
            ) from None
        except asyncssh.KeyExchangeFailed as error:
            raise DestinationRefusedError(
                f"{where}: {error.reason}; the SSH server is too old, or it is not an SSH server"
            ) from None
        except asyncssh.SFTPOpUnsupported as error:
            raise DestinationRefusedError(
                f"{where}: {error.reason}; the SFTP server must support posix-rename@openssh.com, as OpenSSH does"
            ) from None
        except asyncssh.SFTPError as error:
            raise DestinationUnavailableError(
                f"{where}: {error.reason}; check that the disk has room and that {self._config.user} may write to "
                f"{self._config.path}"
            ) from None
        except (asyncssh.Error, OSError) as error:
            reason = error.reason if isinstance(error, asyncssh.Error) else error.strerror or type(error).__name__
            raise DestinationUnavailableError(f"{where}: {reason}") from None

    async def _deliver(self, bundle: Bundle) -> DeliveryResult:
        async with self._connected() as connection:
            slot = self._slot(await connection.start_sftp_client(), bundle.slot)
            newer = await slot.put(bundle, keep=self._config.keep_versions)
            if newer is not None:
                return DeliveryResult("superseded", f"the slot holds the newer certificate {newer.certificate_id}")
            where = f"{self._config.host}:{self._config.path / bundle.slot}"
            if self._config.command is None:
                return DeliveryResult("delivered", where)
            output = await self._command(connection, bundle)
            return DeliveryResult("delivered", f"{where}; command succeeded{': ' + output if output else ''}")

    def _slot(self, sftp: asyncssh.SFTPClient, slot: str) -> RemoteSlot:
        return RemoteSlot(sftp, str(self._config.path), slot, patience=self._patience)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A connection that is aborted at the time limit: everything that waits for the host then fails immediately."""
        loop, overdue = asyncio.get_running_loop(), False
        deadline = loop.time() + self._config.timeout_seconds * _SHARE_OF_TIMEOUT

        def cut() -> None:
            nonlocal overdue
            overdue = True
            connection.abort()

        async with asyncio.timeout_at(deadline):
            connection = await self._connect()
        timer = loop.call_at(deadline, cut)
        try:
            yield connection
        except (asyncssh.Error, OSError, DestinationUnavailableError):
            if overdue:
                raise TimeoutError from None
            raise
        finally:
            connection.close()
            await connection.wait_closed()
            timer.cancel()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        config, client = self._config, _PinnedHost(self._config.host_keys)
        pinned = [algorithm for pin in config.host_keys for algorithm in _algorithms(pin)]
        try:
            return await asyncssh.connect(
                config.host,
                config.port,
                username=config.user,
                client_factory=lambda: client,
                client_keys=[self._login_key()],
                known_hosts=([], [], []),  # only `client` decides; an empty value would mean the user's file
                server_host_key_algs=[*pinned, *_ALGORITHMS],  # the others so that an untrusted key can be reported
                preferred_auth="publickey",
                config=None,  # no ~/.ssh/config
                agent_path=None,
            )
        except asyncssh.HostKeyNotVerifiable:
            raise DestinationRefusedError(
                f"destination {config.name}: {config.host} port {config.port} presented the host key "
                f"{client.rejected}, which is not in host_keys; add it if the host was reinstalled, otherwise suspect "
                "an attack"
            ) from None

    def _login_key(self) -> asyncssh.SSHKey:
        path = self._config.private_key_file
        text = read_credential(path, f"destination {self._config.name}: private_key_file")
        try:
            return asyncssh.import_private_key(text)
        except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError):
            raise DestinationRefusedError(
                f"destination {self._config.name}: private_key_file: {path} is not a private key without passphrase"
            ) from None

    async def _command(self, connection: asyncssh.SSHClientConnection, bundle: Bundle) -> str:
        """Run the command and return the end of its output. Raises `DestinationUnavailableError` if it fails."""
        assert self._config.command is not None  # noqa: S101, checked by the caller
        about = {
            "CERTCOURIER_LINEAGE": bundle.slot,
            "CERTCOURIER_FINGERPRINT": bundle.fingerprint,
            "CERTCOURIER_PATH": str(self._config.path / bundle.slot),
        }
        words = ("env", *(f"{name}={value}" for name, value in about.items()), *self._config.command)
        process = await connection.create_process(
            shlex.join(words), stdin=asyncssh.DEVNULL, stderr=asyncssh.STDOUT, errors="replace"
        )
        output = ""
        while part := await process.stdout.read(65536):
            output = (output + part)[-_OUTPUT_SHOWN:]
        await process.wait_closed()
        output = "".join(character if character.isprintable() else " " for character in output).strip()
        if process.exit_status != 0:
            signal = process.exit_signal
            ended = f"signal {signal[0]}" if signal else f"status {process.exit_status}"
            if process.exit_status is None and signal is None:
                ended = "the connection"
            raise DestinationUnavailableError(
                f"destination {self._config.name}: the files are in place, but the command on {self._config.host} "
                f"ended with {ended}: {output or 'no output'}"
            )
        return output


def _algorithms(pin: str) -> list[str]:
    """The signature algorithms of this host key; none are known for a fingerprint."""
    if pin.startswith("SHA256:"):
        return []
    found = [algorithm.decode() for algorithm in asyncssh.import_public_key(pin).sig_algorithms]
    return [algorithm for algorithm in found if algorithm != "ssh-rsa"]  # RSA with SHA-1
