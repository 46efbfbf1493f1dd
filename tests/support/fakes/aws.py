"""AWS by moto's server mode, corrected where moto differs from AWS: `python -m tests.support.fakes.aws PORT`.

Importing into an ARN keeps its tags, as "Reimport a certificate" in ACM's user guide states; a serial number is shown
in hex with colons, as DescribeCertificate does; IAM refuses in JSON, as both services do. Calls are answered
one at a time, so that what moto checks still holds when it changes something.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.support.fakes.server import ServerProcess
from tests.support.stack import free_port


@contextmanager
def aws_server(folder: Path) -> Iterator[str]:
    """Its URL. It starts empty."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        return requests.get(f"{url}/moto-api/data.json", timeout=5).ok

    with ServerProcess(
        [sys.executable, "-m", "tests.support.fakes.aws", str(port)], ready=is_ready, log=folder / "moto.log"
    ):
        yield url


def _correct() -> None:
    from moto.acm.models import AWSCertificateManagerBackend, CertBundle  # noqa: PLC0415, only in the server

    importing, describing = AWSCertificateManagerBackend.import_certificate, CertBundle.describe

    def import_certificate(self: Any, certificate: bytes, private_key: bytes, chain: Any, arn: Any, tags: Any) -> str:
        held = self._certificates.get(arn)
        found: str = importing(self, certificate, private_key, chain, arn, tags)
        if held is not None:
            self._certificates[found].tags = held.tags
        return found

    def describe(self: Any) -> dict[str, Any]:
        answer: dict[str, Any] = describing(self)
        digits = f"{self._cert.serial_number:x}"
        digits = digits.zfill(len(digits) + len(digits) % 2)
        answer["Certificate"]["Serial"] = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
        return answer

    setattr(AWSCertificateManagerBackend, "import_certificate", import_certificate)  # noqa: B010, as mypy wants it
    setattr(CertBundle, "describe", describe)  # noqa: B010, likewise


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415, only in the server
    from werkzeug.serving import run_simple  # noqa: PLC0415, likewise
    from werkzeug.wrappers import Response  # noqa: PLC0415, likewise

    _correct()
    application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> Any:
        with lock:
            answer = Response.from_app(application, environ)
        if answer.status_code == 403 and environ.get("HTTP_X_AMZ_TARGET") and answer.data.startswith(b"<"):
            code, message = re.findall(r"<(?:Code|Message)>(.*?)<", answer.get_data(as_text=True))
            names = {"AccessDenied": "AccessDeniedException", "InvalidClientTokenId": "UnrecognizedClientException"}
            answer = Response(json.dumps({"__type": names.get(code, code), "message": message}), status=400)
        return answer(environ, start_response)

    run_simple("127.0.0.1", int(sys.argv[1]), one_at_a_time, threaded=True)


if __name__ == "__main__":
    main()
