"""A real nginx that serves what a files destination holds."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Self

import psutil
import pytest

from tests.support.stack import free_port, wait_until

_CONFIGURATION = """
daemon off;
master_process on;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1;
    proxy_temp_path {folder}/t2;
    fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4;
    scgi_temp_path {folder}/t5;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {slot}/fullchain.pem;
        ssl_certificate_key {slot}/privkey.pem;
    }}
}}
"""


class Nginx:
    """`with Nginx(folder, slot) as nginx:`; `slot` is the lineage's folder at the destination."""

    def __init__(self, folder: Path, slot: Path) -> None:
        self._program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if self._program is None:
            pytest.skip("no nginx: install Debian's package `nginx-light`")
        self.port = free_port()
        self._file = folder / "nginx.conf"
        folder.mkdir()
        self._file.write_text(_CONFIGURATION.format(folder=folder, slot=slot, port=self.port))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([str(self._program), "-c", str(self._file)], stderr=subprocess.DEVNULL)
        wait_until(self.served, "nginx listens")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    def reload(self, expected: bytes) -> None:
        """As `nginx -s reload`; returns when the leaf `expected`, DER, is served by all that listen."""
        assert self._process is not None
        before = psutil.Process(self._process.pid).children()
        subprocess.run([str(self._program), "-c", str(self._file), "-s", "reload"], check=True, capture_output=True)
        wait_until(lambda: not any(worker.is_running() for worker in before), "the old workers have ended")
        wait_until(lambda: self.served() == expected, "the new certificate is served")

    def served(self) -> bytes | None:
        """The leaf that is served now, DER."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with (
                socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain,
                context.wrap_socket(plain) as connected,
            ):
                return connected.getpeercert(binary_form=True)
        except ConnectionError:
            return None
