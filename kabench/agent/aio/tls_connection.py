"""`TlsConnection`: a connection whose bytes go through TLS. TLS is done here, between memory and the plain transport.

The event loops' own TLS transports take no session to resume, and cost several times what TLS itself does. Doing it
here gives both loops the same behaviour: sessions resumed in TLS 1.2 and 1.3, and one read per record.
"""

from __future__ import annotations

import contextlib
import ssl
from time import perf_counter, time
from typing import TYPE_CHECKING, cast

from kabench.agent.aio.connection import Connection
from kabench.agent.errors import TlsError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from kabench.agent.aio.connection import Owner
    from kabench.agent.aio.exchange import Booked
    from kabench.agent.urls import Origin

_READ_BYTES = 16_384
"""A record's plain text at most (RFC 8446 section 5.1); a larger buffer would only cost more to allocate."""


class TlsConnection(Connection):
    """A connection over TLS. It is connected, for its agent, when the handshake is done."""

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_failure",
        "_has_looked",
        "_incoming",
        "_is_ended",
        "_is_secured",
        "_is_settled",
        "_origin",
        "_outgoing",
        "_take_out",
        "_tls",
        "_write_out",
    )

    _tls: ssl.SSLObject
    _encrypt: Callable[[bytes | memoryview], int]
    _decrypt: Callable[[int], bytes]
    _take_out: Callable[[], bytes]
    _write_out: Callable[[bytes | memoryview], None]

    def __init__(self, owner: Owner, booked: Booked, origin: Origin) -> None:
        super().__init__(owner, booked)
        self._origin = origin
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._is_secured = False
        self._is_ended = False
        self._is_settled = self._has_looked = False
        self._failure: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write
        owner = self._owner
        if not owner.connecting(self.booked, self):
            transport.abort()  # type: ignore[attr-defined]  # it is a Transport, as above
            return
        context, server_name = owner.tls_contexts.get(self._origin.tls)
        try:
            self._tls = context.wrap_bio(
                self._incoming,
                self._outgoing,
                server_hostname=(server_name or self._origin.host).rstrip("."),
                session=owner.tls_sessions.get(self.booked.origin),
            )
        except (ssl.SSLError, TypeError, ValueError) as error:
            self._fail_connect(TlsError(f"{self.booked.origin}: not the name of a server: {error}"))
            return
        self._shake_hands()

    def _shake_hands(self) -> bool:
        """Take the handshake a step further; return True when it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except (ssl.SSLError, ValueError) as error:
            self._flush()  # the alert that says why
            self._fail_connect(error)
            return False
        self._is_secured = True
        self._write_out, self._write = self._write, self._write_secured
        self._encrypt, self._decrypt, self._take_out = self._tls.write, self._tls.read, self._outgoing.read
        self._owner.tls_sessions.shook_hands(resumed=bool(self._tls.session_reused))
        self._begin()  # the request leaves with the last of the handshake
        self._flush()
        return True

    def _fail_connect(self, error: Exception) -> None:
        self._failure = error
        self.transport.close()
        self._owner.connect_failed(self.booked, self._origin, error)

    def cancel(self) -> None:
        """Give the handshake up."""
        self.transport.abort()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.transport.write(self._outgoing.read())

    def _write_secured(self, data: bytes | memoryview) -> None:
        if self._has_ended():
            return  # connection_lost tells the exchange
        try:
            self._encrypt(data)  # all of it, since memory is never full
        except ssl.SSLError as error:
            self._failure = error
            self.transport.abort()  # connection_lost tells the exchange
            return
        self._write_out(self._take_out())

    def data_received(self, data: bytes) -> None:
        """Decrypt bytes off the wire, and pass on the plain text."""
        incoming = self._incoming
        incoming.write(data)
        if not self._is_secured and not (self._failure is None and self._shake_hands()):
            return
        try:
            plain = self._decrypt(_READ_BYTES)
        except ssl.SSLWantReadError:
            self._flush()  # an answer to what was no application data, such as a new key
        except ssl.SSLError as error:
            self._end(error)
        else:
            if plain and self._is_settled and not incoming.pending:
                Connection.data_received(self, plain)
            else:
                self._pass_on_all(plain)

    def _pass_on_all(self, plain: bytes) -> None:
        """Pass on all whole records that have come, together. `plain` is the first; empty: a close_notify."""
        pieces = [plain]
        error: Exception | None = None
        try:
            while pieces[-1] and self._incoming.pending:
                pieces.append(self._decrypt(_READ_BYTES))
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as failure:
            error = failure
        self._is_ended = not pieces[-1]
        together = b"".join(pieces)
        if together:
            if not self._is_settled:  # and also after two looks: a server that gives no ticket by then gives none
                kept = self._owner.tls_sessions.keep(self.booked.origin, self._tls, time())
                self._is_settled, self._has_looked = kept or self._has_looked, True
            if self._is_ended or error is not None:
                self._owner.book.retire(self.booked)
            Connection.data_received(self, together)
        if self._is_ended or error is not None:
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        """End the connection: the other side has sent close_notify, or what came was not TLS."""
        self._failure = error
        self._lost(error, perf_counter())

    def eof_received(self) -> bool:
        """End the connection with the other side's FIN. Without a close_notify before it, a body may be cut off."""
        if not self._is_secured:
            self._fail_handshake()
        else:
            self._lost(None, perf_counter(), cut_off=not self._is_ended)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the socket is closed, by whichever side."""
        if not self._is_secured:
            self._fail_handshake()
        super().connection_lost(self._failure or error)
        if self._is_secured:
            self._write = self._write_out  # drops our own method, which refers back to this connection
        self._failure = None  # and so does its traceback

    def _fail_handshake(self) -> None:
        if self._failure is None:
            self._fail_connect(TlsError(f"{self.booked.origin}: the server closed the socket in the TLS handshake"))

    def _end_transport(self) -> None:
        """Close with a close_notify (RFC 8446 section 6.1), unless something is in the way: then abort."""
        if not self._is_secured or self._failure is not None or self.transport.get_write_buffer_size():
            self.transport.abort()
            return
        with contextlib.suppress(ssl.SSLError):  # it asks for the server's close_notify, which we do not wait for
            self._tls.unwrap()
        self._flush()
        self.transport.close()
