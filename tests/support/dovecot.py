"""A real Dovecot: IMAP and POP3 with STARTTLS. It must be started as root: it switches to other users."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from tests.support.stack import free_port, wait_until
from tests.support.x509 import Issued

_CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
listen = 127.0.0.1
protocols = imap pop3
ssl = yes
ssl_cert = <{folder}/certificate.pem
ssl_key = <{folder}/key.pem
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}
}}
service imap-login {{
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
"""


class Dovecot:
    """`with Dovecot(issued) as dovecot:`. Ports by protocol are in `ports`."""

    def __init__(self, issued: Issued) -> None:
        self._program = shutil.which("dovecot") or shutil.which("dovecot", path="/usr/sbin")
        if self._program is None or os.geteuid() != 0:
            pytest.skip("no Dovecot: install Debian's packages `dovecot-imapd` and `dovecot-pop3d`, and be root")
        self.ports = {"imap": free_port(), "pop3": free_port()}
        self._folder = tempfile.TemporaryDirectory(prefix="dovecot-")  # pytest's are too long for its sockets' paths
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        (folder / "certificate.pem").write_text(issued.leaf + "".join(issued.chain))
        (folder / "key.pem").write_text(issued.key)
        self._file = folder / "dovecot.conf"
        self._file.write_text(_CONFIGURATION.format(folder=folder, **self.ports))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([str(self._program), "-F", "-c", str(self._file)], stderr=subprocess.DEVNULL)
        try:
            for port in self.ports.values():
                wait_until(partial(self._listens, port), "Dovecot listens")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)
        self._folder.cleanup()

    @staticmethod
    def _listens(port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionError:
            return False
        return True
