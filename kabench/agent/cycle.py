"""One exchange: a request on a socket, from sent to whether the socket may be used again. It decides, and never acts.

Theory of operation. A driver tells a `Cycle` what it has sent and what has come, and gets a `Step` back: read on, send
no more, send it again, it is finished (and the socket reusable or not), it has failed (with which error, and why the
socket is closed). Two rules keep it that way:

* All that decides about one request between "sent" and "may this socket be used again" lives here or, where the head
  of a response says it all, in `reader.py` (`ResponseHead.keep_alive`). A driver has no rule of its own about reuse,
  errors, sending again or stopping.
* The cycle knows nothing of sockets, time, event loops or threads. Which socket a request gets is the book's to say.

A request is SENDING, then SENT; or STOPPED, when the rest of it is not wanted or can no longer be sent. Of its
response there is nothing (SILENT), something (BEGUN: informational responses, part of a head), the final head
(ANSWERED), or all.

| what happens               | SILENT                           | BEGUN        | ANSWERED                              |
| -------------------------- | -------------------------------- | ------------ | ------------------------------------- |
| a final head               | ANSWERED; while SENDING it is an early answer, and the socket is not reused (AK-50)     |
| - of 300 or more           | and while SENDING: stop sending (RFC 9112 section 9.5)                                  |
| - 408 that closes (AK-55)  | on a reused socket, request SENT: send again, or deliver it                             |
| - 101 nobody asked for     | failed: it cannot be trusted (AK-51)                                                    |
| the response is whole      |                                  |              | finished                              |
| sending fails              | STOPPED; what the server has said is still read                                         |
| the server closes          | reused: send again (AK-34) or    | incomplete   | finished if that ends the body, else  |
|                            | stale; else: closed              |              | incomplete                            |
| the socket fails           | the same, as an error            | incomplete   | incomplete; but 300 or more for a     |
|                            |                                  |              | request with a body that ends the     |
|                            |                                  |              | body so: finished (AK-50)             |
| no byte for too long       | failed; if reused, it speaks for | failed       | failed                                |
|                            | other idle sockets (AK-62)       |              |                                       |
| bytes that are no response | failed: it cannot be trusted                                                            |

A socket is reusable after an exchange if its response says so and was all that came, if the request was sent to its end
before, and if neither the request nor an informational response has asked to close (`_may_be_reused`).
"""

from __future__ import annotations

import errno
import ssl
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

from kabench.agent.book import CloseReason
from kabench.agent.errors import (
    AgentError,
    IncompleteResponseError,
    ResponseParseError,
    SocketClosedError,
    SocketTimeoutError,
    StaleSocketError,
)

if TYPE_CHECKING:
    from kabench.agent.reader import ResponseHead, ResponseReader

WRITTEN_AT_ONCE_BYTES = 65_536
"""Bytes of a large request that a driver sends before it checks whether the server has already answered."""

_FIRST_UNWANTED_STATUS = 300
"""An early answer of this status or more means that the rest of the request is not wanted; a server that answers as it
reads (2xx) gets the rest."""

_REQUEST_TIMEOUT = 408
_SWITCHING_PROTOCOLS = 101


class RequestTraits(Protocol):
    """The facts about a request that the cycle needs."""

    @property
    def closes(self) -> bool:
        """Whether it says `Connection: close`."""

    @property
    def repeatable(self) -> bool:
        """Whether the agent may send it again by itself (AK-34): its method or a header, and its body, allow that."""

    @property
    def expects_continue(self) -> bool:
        """Whether it says `Expect: 100-continue`."""

    @property
    def has_body(self) -> bool:
        """Whether it has a body, of which a server may not read all."""

    @property
    def asks_to_switch(self) -> bool:
        """Whether it says `Upgrade`, so that a 101 is an answer to it."""


@dataclass(frozen=True, slots=True)
class SentRequest:
    """`RequestTraits` as a value, for a driver whose requests are another library's objects."""

    closes: bool = False
    repeatable: bool = False
    expects_continue: bool = False
    asks_to_switch: bool = False
    has_body: bool = False


class Go(Enum):
    """Steps that end nothing."""

    READ_ON = "read_on"
    """wait for more of the response"""
    STOP_SENDING = "stop_sending"
    """send no more of the request, and wait for more of the response"""


@dataclass(frozen=True, slots=True)
class Finished:
    """The response is whole. `is_stale`: the server ended the idle socket with it, and it is delivered all the same."""

    reusable: bool
    is_stale: bool = False


@dataclass(frozen=True, slots=True)
class SendAgain:
    """The socket was stale: close it for `reason`, and send the request again on a fresh one."""

    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no response, or no more of it: close the socket for `reason`.

    `is_stale`: the socket was stale, and the request is not sent again. `doubts_idle`: the other sockets of its origin
    that have been idle as long are not to be trusted either (AK-62).
    """

    error: AgentError
    reason: CloseReason
    is_stale: bool = False
    doubts_idle: bool = False


Step: TypeAlias = Go | Finished | SendAgain | Failed


def why_idle_ended(error: Exception | None, *, stray_bytes: bool = False) -> CloseReason:
    """Return why a socket that carries no request cannot be used any more (AK-15 to AK-17).

    The other side has closed it, it has failed with `error`, or bytes came that no request had asked for.
    """
    if stray_bytes:
        return CloseReason.STRAY_BYTES
    return CloseReason.SERVER_CLOSED if error is None else CloseReason.ERROR


class _Sending(Enum):
    SENDING = "sending"
    SENT = "sent"
    STOPPED = "stopped"


_SENDING, _SENT, _STOPPED = _Sending.SENDING, _Sending.SENT, _Sending.STOPPED

_REUSABLE, _NOT_REUSABLE = Finished(reusable=True), Finished(reusable=False)


class Cycle:
    """One exchange on one socket; the driver feeds what comes to `reader`, which was begun for this request.

    `reused` says whether the socket has carried a request before, `origin` is the key that errors name. The request
    counts as being sent until the driver calls `sent`.
    """

    __slots__ = ("_answered", "_failure", "_is_early", "_origin", "_request", "_reused", "_sending", "reader")

    def __init__(self, request: RequestTraits, reader: ResponseReader, origin: str, *, reused: bool) -> None:
        self.reader = reader
        self._request = request
        self._origin = origin
        self._reused = reused
        self._sending = _SENDING
        self._answered = self._is_early = False
        self._failure: Exception | None = None

    # -- the way out ---------------------------------------------------------------------------------------------------

    def sent(self) -> None:
        """Note that all of the request has left."""
        if self._sending is _SENDING:
            self._sending = _SENT

    def send_failed(self, error: Exception | None = None) -> None:
        """Note that nothing more can be sent. What the server said before may still be there to be read.

        The system reports an `error` only once: an end of stream that is read after it was not a clean one.
        """
        if self._sending is _SENDING:
            self._sending = _STOPPED
        self._failure = error

    @property
    def is_sending(self) -> bool:
        """Whether the rest of the request is still wanted, and can be sent."""
        return self._sending is _SENDING

    # -- the way in ----------------------------------------------------------------------------------------------------

    @property
    def is_silent(self) -> bool:
        """Whether no byte of a response has come."""
        return not self.reader.started

    def received(self) -> Step:
        """Return what to do now that the reader has been fed."""
        reader = self.reader
        head = reader.head
        if head is None:
            return Go.READ_ON
        if not self._answered:
            step = self._take_answer(head)
            if step is not None:
                return step
        if reader.complete:
            if self._is_for_the_idle_socket(head):
                return Finished(reusable=False, is_stale=True)
            return _REUSABLE if self._may_be_reused(head) else _NOT_REUSABLE
        if self._sending is _SENDING and head.status >= _FIRST_UNWANTED_STATUS:
            self._sending = _STOPPED
            return Go.STOP_SENDING
        return Go.READ_ON

    def _take_answer(self, head: ResponseHead) -> Step | None:
        self._answered = True
        self._is_early = self._sending is not _SENT
        if head.status == _SWITCHING_PROTOCOLS and not self._request.asks_to_switch:
            return self.distrust(ResponseParseError("a response of status 101, which nobody asked for"))
        if self._request.repeatable and self._is_for_the_idle_socket(head):
            return SendAgain(CloseReason.SERVER_CLOSED)
        return None

    def _is_for_the_idle_socket(self, head: ResponseHead) -> bool:
        """Return whether this is a 408 to the idle socket that has crossed the request (RFC 9110 section 15.5.9)."""
        return head.status == _REQUEST_TIMEOUT and not head.keep_alive and self._reused and not self._is_early

    def _may_be_reused(self, head: ResponseHead) -> bool:
        request, reader = self._request, self.reader
        return (
            head.keep_alive
            and not reader.overrun
            and not reader.interim_closes
            and not self._is_early
            and not request.closes
            # AK-52: a server that did not say 100 may take what follows for the body, or for a request
            and (reader.saw_continue or not request.expects_continue)
        )

    def distrust(self, error: AgentError) -> Failed:
        """Return the failure of a response that cannot be trusted, or is not wanted any more; `error` says why."""
        reason = CloseReason.ERROR if isinstance(error, ResponseParseError) else CloseReason.ABORTED
        return Failed(error, reason)

    def closed(self, *, cut_off: bool = False) -> Step:
        """Return what to do now that the server has closed the socket. `cut_off`: without the close_notify of TLS."""
        if self._failure is not None:
            return self.broken(self._failure)
        if self._answered and (not cut_off or self._is_refused()) and self.reader.eof():
            return _NOT_REUSABLE
        return self._gone(CloseReason.SERVER_CLOSED, None)

    def broken(self, error: Exception, timeout_s: float = 0.0) -> Step:
        """Return what to do now that the socket has failed with the system's or the TLS layer's `error`.

        `timeout_s` is how long the system was told to wait for an acknowledgement (0.0: it was told nothing).
        """
        if isinstance(error, OSError) and error.errno == errno.ETIMEDOUT:
            how_long = f" for {timeout_s:g} s" if timeout_s else ""
            return self._too_silent(f"{self._origin}: the other side acknowledged nothing{how_long}", timeout_s, error)
        if self._is_refused() and not isinstance(error, ssl.SSLError) and self.reader.eof():
            return _NOT_REUSABLE
        return self._gone(CloseReason.ERROR, error)

    def _is_refused(self) -> bool:
        """Return whether a body is refused: a server that closes without reading all of a request resets the socket."""
        head = self.reader.head
        return self._request.has_body and head is not None and head.status >= _FIRST_UNWANTED_STATUS

    def timed_out(self, silent_s: float) -> Failed:
        """Return the failure of a request for which no byte has moved for `silent_s` seconds."""
        return self._too_silent(f"{self._origin}: no byte for {silent_s:g} s", silent_s, None)

    def _too_silent(self, text: str, timeout_s: float, cause: Exception | None) -> Failed:
        error = SocketTimeoutError(text, timeout_s, reused_socket=self._reused)
        error.__cause__ = cause
        return Failed(error, CloseReason.ACTIVE_TIMEOUT, doubts_idle=self._reused and self.is_silent)

    def _gone(self, reason: CloseReason, cause: Exception | None) -> Step:
        if self.is_silent and self._reused and self._request.repeatable:
            return SendAgain(reason)
        error: SocketClosedError
        if not self.is_silent:
            error = IncompleteResponseError(
                "the server closed the socket in the middle of its response", reused_socket=self._reused
            )
        elif self._reused:
            error = StaleSocketError(
                "the reused socket was closed by the server while the request was on its way", reused_socket=True
            )
        else:
            how = "closed the socket without a response" if cause is None else f"broke off before a response: {cause}"
            error = SocketClosedError(f"the server {how}", reused_socket=False)
        error.__cause__ = cause
        return Failed(error, reason, is_stale=self.is_silent and self._reused)
