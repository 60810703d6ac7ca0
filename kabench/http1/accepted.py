"""The sockets that a server accepts: `AcceptedSocket`, the protocol of one, and `AcceptedSockets`, all of one server.

Theory of operation. What a server owes each client, and itself, whatever it answers:

* It takes in no more clients than it has room for. One too many gets an answer and is closed.
* It closes a refused client's socket so that the client can read why. A client that still sends would be reset by a
  plain close, and lose what it has not read yet (RFC 9112 section 9.6). So the server ends its own side only, and
  passes over what still comes for a short while: the socket lingers.
* It cuts off a client that takes nothing of its answers, and refuses a request that takes too long to come.

Subclasses handle requests, answers and their order, and decide what a look checks. Nothing here is done per request:
one timer per server looks at all sockets now and then. What a look has to know is noted as it changes, which is when a
client cannot keep up.

What is not ideal: a look passes over every socket, idle ones too, in one turn of the event loop; and a timeout is late
by up to the time between two looks.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from kabench.http1.request_watch import RequestWatch
from kabench.http1.requests import too_slow
from kabench.http1.send_watch import SendWatch

if TYPE_CHECKING:
    from collections.abc import Callable

    from kabench.http1.client_limits import ClientLimits
    from kabench.http1.requests import RefusedRequestError, RequestParser

_LINGERS_S = 2.0
"""How long a client that was refused may go on sending before it is cut off."""

_MAX_LEAVING = 1000
"""Refused sockets that may linger at the same time; further ones are closed at once."""

_LOOK_AT_LEAST_EVERY_S = 1.0
_LOOKS_PER_TIMEOUT = 50


class AcceptedSocket(asyncio.Protocol):
    """One accepted socket.

    `_half_closed`: the client has finished sending. `_is_writing_held`: it takes less than it is sent, and is sent
    nothing more for now.
    """

    __slots__ = (
        "_half_closed",
        "_is_writing_held",
        "_lingers_until",
        "_request_watch",
        "_send_timeout_s",
        "_send_watch",
        "_write",
        "transport",
    )

    transport: asyncio.Transport
    _write: Callable[[bytes], None]

    def __init__(self, limits: ClientLimits) -> None:
        self._half_closed = self._is_writing_held = False
        self._send_timeout_s = limits.send_timeout_s
        self._send_watch = SendWatch()
        self._request_watch = RequestWatch(limits)
        self._lingers_until = inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)
        self._write = self.transport.write

    def pause_writing(self) -> None:
        """Send nothing more: the client is slower than the server."""
        self._is_writing_held = True
        self._send_watch.moved()

    def resume_writing(self) -> None:
        """Go on sending: the client has caught up."""
        self._is_writing_held = False
        self._send_watch.moved()

    def _stop_listening(self) -> None:
        """Ignore what still comes, and drop what waits. Subclasses define it."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the socket once what was written has gone out."""
        self._stop_listening()
        self.transport.close()

    def close_lingering(self) -> None:
        """Close the socket, but let a client that still sends read the answer. If reading was held, it goes on."""
        self._stop_listening()
        if self._half_closed or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            if not self.transport.is_reading():
                self.transport.resume_reading()
            self._lingers_until = perf_counter() + _LINGERS_S

    # -- looks ---------------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Check whether anything takes too long. It is called now and then."""
        raise NotImplementedError

    def _cut_off_if_stuck(self, now: float) -> bool:
        """Abort if the client takes nothing for too long, or has lingered for long enough; return whether it did."""
        unsent_bytes = self.transport.get_write_buffer_size()
        stands_still_s = self._send_watch.stands_still_for_s(unsent_bytes, now)
        if now < self._lingers_until and stands_still_s <= self._send_timeout_s:
            return False
        self.transport.abort()
        return True

    def _slow_request(self, reader: RequestParser, now: float, *, is_read_from: bool) -> RefusedRequestError | None:
        """Return the refusal of the request that is being read, if it takes too long."""
        passed_s = self._request_watch.too_slow_s(reader, now, is_read_from=is_read_from)
        return None if passed_s is None else too_slow(passed_s)


SocketT = TypeVar("SocketT", bound=AcceptedSocket)


class AcceptedSockets(Generic[SocketT]):
    """All accepted sockets of a server, and the timer that looks at them.

    `connections` are those that are served, at most `most`; `leaving` are refused ones that linger.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.connections: set[SocketT] = set()
        self.leaving: set[SocketT] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take_in(self, connection: SocketT) -> bool:
        """Add a new socket to those that are served; return False if there are too many."""
        if len(self.connections) >= self.most:
            return False
        self.connections.add(connection)
        return True

    @property
    def too_many(self) -> str:
        """The reason why a socket was not taken in."""
        return f"there are {self.most} connections already"

    def send_away(self, connection: SocketT) -> None:
        """Close a socket that was not taken in; its answer has been written."""
        if len(self.leaving) < _MAX_LEAVING:
            self.leaving.add(connection)
            connection.close_lingering()
        else:
            connection.close()

    def forget(self, connection: SocketT) -> None:
        """Drop a socket that is closed."""
        self.connections.discard(connection)
        self.leaving.discard(connection)

    def start_looking(self, shortest_timeout_s: float) -> None:
        """Look at all sockets from now on, often enough for the shortest timeout (seconds) that they have."""
        self._look(asyncio.get_running_loop(), min(_LOOK_AT_LEAST_EVERY_S, shortest_timeout_s / _LOOKS_PER_TIMEOUT))

    def _look(self, loop: asyncio.AbstractEventLoop, every_s: float) -> None:
        now = perf_counter()
        for connection in [*self.connections, *self.leaving]:  # a look can end one
            connection.look(now)
        self._timer = loop.call_later(every_s, self._look, loop, every_s)

    def abort(self) -> None:
        """Close all sockets at once, and look at none any more."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in [*self.connections, *self.leaving]:
            connection.transport.abort()
