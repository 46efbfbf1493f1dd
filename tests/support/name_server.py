"""An authoritative name server over UDP on loopback, for tests, with configured answers, errors and timeouts."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Collection
from typing import Any, Self

from dns import flags, message, rcode, rdatatype, rrset


class NameServer:
    """`with NameServer({("a.example.", "NS"): ["ns1.example."]}) as (address, port):`

    `bogus` names are answered for with SERVFAIL unless checking is disabled, as a validating resolver does when
    signatures are wrong; `silent` ones not at all.
    """

    def __init__(
        self, records: dict[tuple[str, str], list[str]], *, bogus: Collection[str] = (), silent: Collection[str] = ()
    ) -> None:
        self._records = records
        self._bogus, self._silent = bogus, silent
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, socket = self.request
                answer = outer._answer(message.from_wire(data))
                if answer is not None:
                    socket.sendto(answer.to_wire(), self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """ADDRESS:PORT."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def _answer(self, query: message.Message) -> Any:
        (question,) = query.question
        name, kind = str(question.name).lower(), rdatatype.to_text(question.rdtype)
        if name in self._silent:
            return None
        answer = message.make_response(query)
        answer.flags |= flags.RA
        if name in self._bogus and not query.flags & flags.CD:
            answer.set_rcode(rcode.SERVFAIL)
        elif texts := self._records.get((name, kind)):
            answer.answer.append(rrset.from_text(name, 60, "IN", kind, *texts))
        elif not any(known == name or known.endswith("." + name) for known, _ in self._records):
            answer.set_rcode(rcode.NXDOMAIN)
        return answer
