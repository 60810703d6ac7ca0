"""`ProxyConnection`: one client's socket. Its requests go to the target one after the other, its answers in order."""

from __future__ import annotations

from collections import deque
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from kabench.agent.aio.upload import Upload
from kabench.http1.accepted import AcceptedSocket
from kabench.http1.requests import RefusedRequestError, RequestHead, RequestParser
from kabench.http1.reset import reset
from kabench.proxy.body import HELD_BYTES, ClientBody
from kabench.proxy.exchange import ProxyExchange
from kabench.proxy.rules import STATUS_TARGET, headers_for_the_target, own_answer, response_head, route, status_for

if TYPE_CHECKING:
    import asyncio

    from kabench.agent.aio import PreparedRequest, ResponseHead
    from kabench.http1.accepted import AcceptedSockets
    from kabench.http1.client_limits import ClientLimits
    from kabench.proxy.options import ProxyOptions
    from kabench.proxy.rules import Route
    from kabench.proxy.upstream import Upstream

_MAX_WAITING_REQUESTS = 64
"""Pipelined requests that a client may have unanswered before it is no longer read from."""


class Owner(Protocol):
    """What a connection needs of its proxy.

    `known` says for requests, by their bytes, where each goes and what is sent. `authorities` are the names that a
    client may call the proxy by, `via` is how it calls itself.
    """

    options: ProxyOptions
    accepted: AcceptedSockets[ProxyConnection]
    upstreams: dict[str, Upstream]
    known: dict[bytes, tuple[Upstream, PreparedRequest, RequestHead]]
    authorities: frozenset[str]
    via: str

    def learn(self, raw: bytes, upstream: Upstream, prepared: PreparedRequest, head: RequestHead) -> None:
        """Remember what becomes of a request, by its bytes."""

    def head_of(self, head: ResponseHead) -> bytes:
        """Return a response's head for a client that speaks HTTP/1.1 and stays."""

    def status_json(self) -> str:
        """Return what `GET /-/status` answers."""


class _Listening(Enum):
    """Whether the client is read from."""

    READS = "reads"
    HELD = "held"
    """as long as the target has enough"""
    OVER = "over"
    """nothing that comes is looked at any more"""


class _Outgoing(Enum):
    """Whether the present answer has begun to go out, and how its body is sent."""

    NOTHING = "nothing"
    AS_IT_COMES = "as_it_comes"
    IN_CHUNKS = "in_chunks"


_NO_HEAD = RequestHead("GET", "", "1.1", (), keep_alive=False, body_length=0, expects_continue=False)
_WITHOUT_BODY = frozenset({204, 304})


class ClientRequest:
    """A client's request that is not answered yet; `body` takes in its body."""

    __slots__ = ("body", "head", "prepared", "refusal", "route", "wants_continue")

    def __init__(self, head: RequestHead, body: ClientBody) -> None:
        self.head = head
        self.body = body
        self.route: Route | None = None
        self.prepared: PreparedRequest | None = None
        self.refusal: RefusedRequestError | None = None
        self.wants_continue = False

    @property
    def can_be_sent(self) -> bool:
        """Whether it is whole, or large enough to be sent on as it comes, or refused."""
        return self.body.is_whole or self.body.held_bytes >= HELD_BYTES or self.refusal is not None


class _Reader(RequestParser):
    """Tells the connection of the requests on its socket."""

    __slots__ = ("_connection",)

    def __init__(self, connection: ProxyConnection, limits: ClientLimits) -> None:
        super().__init__(limits)
        self._connection = connection

    def head_read(self, head: RequestHead) -> None:
        self._connection.request_began(head)

    def body_read(self, piece: bytes) -> None:
        self._connection.request_piece(piece)

    def end_read(self) -> None:
        self._connection.request_ended()


class ProxyConnection(AcceptedSocket):
    """One accepted socket.

    `_arriving` is the request that is being read, `_waiting` are those not sent on yet, and `_served` is the one whose
    answer comes next (None if that request was known by its bytes). `_head` is that request's head, and `_exchange` is
    set while the target has it. `_keeps_alive`: another answer may follow this one.
    """

    __slots__ = (
        "_arriving",
        "_began_at",
        "_exchange",
        "_exchanges",
        "_head",
        "_is_serving",
        "_keeps_alive",
        "_known",
        "_listening",
        "_outgoing",
        "_proxy",
        "_reader",
        "_served",
        "_upstream",
        "_waiting",
    )

    def __init__(self, proxy: Owner) -> None:
        super().__init__(proxy.options.limits)
        self._proxy = proxy
        self._known = proxy.known
        self._reader = _Reader(self, proxy.options.limits)
        self._arriving: ClientRequest | None = None
        self._waiting: deque[ClientRequest] = deque()
        self._served: ClientRequest | None = None
        self._exchange: ProxyExchange | None = None
        self._exchanges: dict[Upstream, ProxyExchange] = {}
        self._upstream: Upstream | None = None
        self._began_at = 0.0
        self._head = _NO_HEAD
        self._keeps_alive = True
        self._is_serving = False
        self._listening = _Listening.READS
        self._outgoing = _Outgoing.NOTHING

    # -- the socket ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the client in, or send it away."""
        super().connection_made(transport)
        accepted = self._proxy.accepted
        if not accepted.take_in(self):
            self._keeps_alive = False
            self._answer(503, accepted.too_many)
            accepted.send_away(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Give up what the client had under way. References back to this object go, so that no collection is needed."""
        self._listening = _Listening.OVER
        self._proxy.accepted.forget(self)
        self._give_up()
        self._waiting.clear()
        self._served = None
        if self._arriving is not None:
            self._arriving.body.drop()
            self._arriving = None
        self._exchanges.clear()
        self._reader.release()

    def _give_up(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._upstream is not None:
            self._upstream.give_up(exchange)

    def eof_received(self) -> bool:
        """Keep the socket open for the answers that the client, which has finished sending, waits for."""
        self._half_closed = True
        if not self._reader.at_boundary and self._listening is not _Listening.OVER:
            self._refuse_last(RefusedRequestError(400, "the request breaks off"))
        return self._is_busy

    @property
    def _is_busy(self) -> bool:
        return self._exchange is not None or bool(self._waiting) or self._is_writing_held

    def data_received(self, data: bytes) -> None:
        """Read requests, and send the first of them on."""
        if self._listening is _Listening.OVER:
            return
        reader = self._reader
        was_at_boundary = reader.at_boundary
        if was_at_boundary:
            known = self._known.get(data)
            if known is not None and not self._is_busy:
                upstream, prepared, self._head = known
                self._keeps_alive = True
                self._send_on(upstream, prepared)
                return
        waiting = len(self._waiting)
        try:
            reader.feed(data)
        except RefusedRequestError as error:
            self._refuse_last(error)
            return
        if was_at_boundary and reader.at_boundary and len(self._waiting) == waiting + 1:
            self._learn(data, self._waiting[-1])
        self._serve_waiting()
        self._hold_or_go_on()

    def resume_writing(self) -> None:
        """Go on: the client has caught up."""
        super().resume_writing()
        if self._exchange is not None:
            self._exchange.client_takes_more()
        else:
            self._serve_waiting()

    def _hold_or_go_on(self) -> None:
        """Read from the client no faster than the target does."""
        arriving = self._arriving
        is_full = len(self._waiting) >= _MAX_WAITING_REQUESTS or (arriving is not None and arriving.body.is_full)
        if is_full and self._listening is _Listening.READS:
            self._listening = _Listening.HELD
            self.transport.pause_reading()
        elif not is_full and self._listening is _Listening.HELD:
            self._listening = _Listening.READS
            self.transport.resume_reading()

    # -- requests ------------------------------------------------------------------------------------------------------

    def request_began(self, head: RequestHead) -> None:
        """Take the head of a request that has begun to arrive. Raises `RefusedRequestError`."""
        request = self._arriving = ClientRequest(head, ClientBody(self._hold_or_go_on))
        self._waiting.append(request)
        if head.target != STATUS_TARGET:
            request.route = route(head, self._proxy.authorities, self._proxy.via)
        request.wants_continue = head.expects_continue

    def request_piece(self, piece: bytes) -> None:
        """Take a piece of the arriving request's body."""
        if self._arriving is not None:
            self._arriving.body.add(piece)

    def request_ended(self) -> None:
        """Note that the arriving request is whole."""
        if self._arriving is not None:
            self._arriving.body.end()
            self._arriving = None

    def _refuse_last(self, error: RefusedRequestError) -> None:
        """Answer the requests that came before, refuse the last one, then close."""
        request, self._arriving = self._arriving, None
        self._listening = _Listening.OVER
        self._reader.give_up()
        if request is not None and request is self._served:
            self._give_up()
            if self._outgoing is not _Outgoing.NOTHING:
                reset(self.transport)
                return
            self._waiting.appendleft(request)
        elif request is None:
            request = ClientRequest(_NO_HEAD, ClientBody(self._hold_or_go_on))
            self._waiting.append(request)
        request.refusal = error
        request.body.drop()
        self._serve_waiting()

    def _learn(self, data: bytes, request: ClientRequest) -> None:
        """Remember this request for the next time it comes."""
        head = request.head
        if request.route is None or not head.keep_alive or head.http_version != "1.1":
            return
        try:
            upstream, request.prepared = self._prepared_of(request, request.route)
        except ValueError:
            return  # the client is told when it is this request's turn
        self._proxy.learn(data, upstream, request.prepared, head)

    def _prepared_of(self, request: ClientRequest, way: Route) -> tuple[Upstream, PreparedRequest]:
        """Return a whole request as it is sent on, and where to. Raises `ValueError`."""
        upstream = self._proxy.upstreams[way.agent]
        body = way.body
        if body is None and request.body.has_begun:
            body = request.body.whole()
        return upstream, upstream.prepare(way, headers_for_the_target(request.head, self._proxy.via), body)

    def _serve_waiting(self) -> None:
        """Serve the first waiting requests, as far as they have come and it is their turn."""
        if self._is_serving:
            return
        self._is_serving = True
        while self._waiting and self._exchange is None and not (self._is_writing_held or self.transport.is_closing()):
            request = self._waiting[0]
            if not request.can_be_sent:
                if request.wants_continue and not request.body.has_begun:
                    request.wants_continue = False
                    self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
                break
            self._serve(self._waiting.popleft())
        self._is_serving = False
        self._hold_or_go_on()

    def _serve(self, request: ClientRequest) -> None:
        self._head = request.head
        self._keeps_alive = request.head.keep_alive and request.refusal is None
        self._served = request
        if request.refusal is not None:
            self._answer(request.refusal.status, str(request.refusal))
            self.close_lingering()
            return
        way = request.route
        if way is None:
            if request.head.method in ("GET", "HEAD"):
                self._answer(200, self._proxy.status_json(), "application/json")
            else:
                self._answer(405, f"{STATUS_TARGET} is for GET")
            self._finish_answer()
            return
        upload = None
        try:
            if request.body.is_whole:
                upstream, prepared = self._prepared_of(request, way)
            else:
                upload = Upload(request.body.pieces())
                upload.length = None if request.head.body_length < 0 else request.head.body_length
                upstream = self._proxy.upstreams[way.agent]
                prepared = upstream.prepare(way, headers_for_the_target(request.head, self._proxy.via), upload)
        except ValueError as error:
            self._answer(400, " ".join(str(error).split()))
            self._finish_answer()
            return
        self._send_on(upstream, request.prepared or prepared, upload)

    def _send_on(self, upstream: Upstream, prepared: PreparedRequest, upload: Upload | None = None) -> None:
        exchange = self._exchanges.get(upstream) if upload is None else None
        if exchange is None:
            exchange = ProxyExchange(self, prepared, upstream.timeout_s, upload)
            if upload is None:
                self._exchanges[upstream] = exchange
        else:
            exchange.carry(prepared)
        self._upstream = upstream
        self._exchange = exchange
        self._outgoing = _Outgoing.NOTHING
        self._began_at = now = perf_counter()
        upstream.start(exchange, now)

    # -- answers -------------------------------------------------------------------------------------------------------

    def whole_response(self, head: ResponseHead, body: bytes, now: float) -> None:
        """Send a response that came in one piece."""
        self._note(now)
        says_length = head.body_length >= 0 or self._head.method == "HEAD" or head.status in _WITHOUT_BODY
        self._write(self._head_of(head, None if says_length else f"Content-Length: {len(body)}") + body)
        self._finish_answer()

    def _note(self, now: float) -> None:
        if self._upstream is not None:
            self._upstream.note(now - self._began_at)

    def _head_of(self, head: ResponseHead, framing: str | None) -> bytes:
        is_last = self._half_closed and not self._waiting
        is_cut_short = self._served is not None and not self._served.body.is_whole  # the rest is not waited for
        if is_last or is_cut_short:
            self._keeps_alive = False
        is_http_1_1 = self._head.http_version == "1.1"
        if framing is None and self._keeps_alive and is_http_1_1:
            return self._proxy.head_of(head)
        return response_head(head, framing, keep_alive=self._keeps_alive, is_http_1_1=is_http_1_1)

    def response_began(self, head: ResponseHead) -> None:
        """Send the head of a response that comes in pieces."""
        framing = None
        self._outgoing = _Outgoing.AS_IT_COMES
        if head.body_length < 0:
            if self._head.http_version == "1.1":
                self._outgoing = _Outgoing.IN_CHUNKS
                framing = "Transfer-Encoding: chunked"
            else:
                self._keeps_alive = False  # the connection's end is the body's
        self._write(self._head_of(head, framing))

    def response_piece(self, piece: bytes) -> bool:
        """Send a piece of its body; return whether the client takes more."""
        if piece:
            in_chunks = self._outgoing is _Outgoing.IN_CHUNKS
            self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if in_chunks else piece)
        return not self._is_writing_held

    def response_ended(self, now: float) -> None:
        """Send the end of its body."""
        self._note(now)
        if self._outgoing is _Outgoing.IN_CHUNKS:
            self._write(b"0\r\n\r\n")
        self._finish_answer()

    def response_failed(self, error: Exception, *, has_begun: bool) -> None:
        """Answer 502 or 504 if nothing of a response has gone out, else reset the socket in its middle."""
        if self._upstream is not None:
            self._upstream.failures += 1
        if has_begun:
            self._exchange = None
            self._listening = _Listening.OVER
            reset(self.transport)  # a FIN could be taken for the end of a whole body
            return
        if self._served is not None and not self._served.body.is_whole:
            self._keeps_alive = False
        self._answer(*status_for(error))
        self._finish_answer()

    def _answer(self, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
        """Send an answer of the proxy's own."""
        is_head = self._head.method == "HEAD"
        self._write(own_answer(status, text, content_type, keep_alive=self._keeps_alive, is_head=is_head))

    def _finish_answer(self) -> None:
        """Go on with the next request, or close."""
        self._exchange = None
        self._head = _NO_HEAD  # an idle socket does not hold the last head, which may be large
        served, self._served = self._served, None
        if served is not None and not served.body.is_whole:
            served.body.drop()
            self.close_lingering()
        elif not self._keeps_alive:
            self.close()
        elif self._waiting:
            self._serve_waiting()
        elif self._half_closed:
            self.close()

    def _stop_listening(self) -> None:
        self._listening = _Listening.OVER
        self._waiting.clear()

    def look(self, now: float) -> None:
        """Check whether a request, or a client that should read, takes too long."""
        if self._cut_off_if_stuck(now) or self._listening is _Listening.OVER:
            return
        refusal = self._slow_request(self._reader, now, is_read_from=self._listening is _Listening.READS)
        if refusal is not None:
            self._refuse_last(refusal)
