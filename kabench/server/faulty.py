"""`FaultyConnection`: a socket of the echo server that does what its faults say."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING

from kabench.http1.reset import reset
from kabench.server.answers import Answer, as_one
from kabench.server.connection import EchoConnection
from kabench.server.faults import EXTRA_BYTES, FAULT_NUMBERS, GARBAGE, FaultKind, RequestChance, SocketChance

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from kabench.server.connection import Owner
    from kabench.server.faults import Fault

_PIECES = 10
"""The number of pieces that a slow body comes in."""

_AT_ONCE_S = 1e-9
"""The delay of a faulty answer that has none of its own, so that it waits for its turn."""

_LENGTHS = (b"content-length:", b"transfer-encoding:", b"connection:", b"keep-alive:")


class FaultChances:
    """The faults of a server, and the draws that say which requests and sockets they hit."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.requests = RequestChance(faults, seed)
        self.sockets = SocketChance(faults, seed)
        self.stalls = [fault for fault in faults if fault.kind is FaultKind.STALL and fault.period_s]
        self.garbage = random.Random(f"garbage {seed}")  # noqa: S311  # to be repeated, not to be secret
        self.zero = perf_counter()


@dataclass(frozen=True, slots=True)
class _Spoiled(Answer):
    """An answer that meets a fault."""

    fault: Fault | None = None
    is_stalled: bool = False


@dataclass(frozen=True, slots=True)
class _Piece(Answer):
    """A piece of a slow answer."""

    is_last: bool = False


class FaultyConnection(EchoConnection):
    """A socket that misbehaves now and then, as its faults say."""

    __slots__ = ("_chances", "_closes_idle_after_s", "_drops_idle_after_s")

    def __init__(self, server: Owner, chances: FaultChances) -> None:
        super().__init__(server)
        self._chances = chances
        self._closes_idle_after_s = self._drops_idle_after_s = inf

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Draw the faults of this socket."""
        super().connection_made(transport)
        faults = self._chances.sockets.next()
        if self._closing:
            return
        if FaultKind.REFUSE in faults:
            self._note(FaultKind.REFUSE)
            self._reset()
            return
        for kind, fault in faults.items():
            if kind is FaultKind.CLOSE_IDLE:
                self._closes_idle_after_s = fault.duration_s
            else:
                self._drops_idle_after_s = fault.duration_s

    def data_received(self, data: bytes) -> None:
        """Take bytes, or reset a socket that has been forgotten meanwhile."""
        is_idle = self._reader.at_boundary and not self.waiting and not self._closing
        if is_idle and perf_counter() - self.idle_since >= self._drops_idle_after_s:
            self._note(FaultKind.DROP_IDLE)
            self._reset()
            return
        super().data_received(data)

    def _look_at_idle(self, idle_s: float) -> None:
        if idle_s >= self._drops_idle_after_s:
            return  # nothing more happens here
        if idle_s >= self._closes_idle_after_s:
            self._note(FaultKind.CLOSE_IDLE)
            self.close()
            return
        super()._look_at_idle(idle_s)

    def _take(self, made: Answer) -> None:
        chances = self._chances
        fault = None if made.is_bad_request else chances.requests.next()
        delay_s = made.delay_s
        if fault is not None and fault.kind is FaultKind.STALL:
            delay_s += fault.duration_s
        is_stalled = False
        if chances.stalls:
            now = perf_counter()
            due_at = at = now + delay_s
            for stall in chances.stalls:
                at = stall.held_until(at, chances.zero)
            is_stalled = at > due_at
            delay_s = at - now
        if fault is None and not is_stalled:
            super()._take(made)
            return
        if fault is not None:
            self._let_go(made)
            made = as_one(made)
        super()._take(
            _Spoiled(
                delay_s=max(delay_s, _AT_ONCE_S),
                head=made.head,
                body=made.body,
                wire=made.wire,
                body_bytes=made.body_bytes,
                request_body_bytes=made.request_body_bytes,
                closes=made.closes,
                is_bad_request=made.is_bad_request,
                large=made.large,
                fault=fault,
                is_stalled=is_stalled,
            )
        )

    def _send(self, made: Answer) -> None:
        if isinstance(made, _Piece):
            self._send_piece(made)
        elif isinstance(made, _Spoiled):
            if made.is_stalled:
                self._note(FaultKind.STALL)
            self._spoil(made)
        else:
            super()._send(made)

    def _spoil(self, made: _Spoiled) -> None:
        kind = made.fault.kind if made.fault is not None else None
        if kind is None or (kind is FaultKind.NO_LENGTH and b"Transfer-Encoding: chunked" in made.head):
            super()._send(made)  # chunks say no length anyway
            return
        self._note(kind)
        match kind:
            case FaultKind.RESET:
                self._reset()
            case FaultKind.GARBAGE:
                self._write(self._chances.garbage.choice(GARBAGE))
                self.close()
            case FaultKind.CLOSE_MID_BODY:
                wire, _ = self._numbered(made)
                self._write(wire[: len(wire) - max(1, (len(made.body) + 1) // 2)])
                self.close()
            case FaultKind.NO_LENGTH:
                self._answered(made.body_bytes)
                lines = [line for line in made.head.split(b"\r\n") if not line.lower().startswith(_LENGTHS)]
                self._write(b"\r\n".join([*lines, b"Connection: close", b"", made.body]))
                self.close()
            case FaultKind.EXTRA_BYTES:
                self._answered(made.body_bytes)
                wire, _ = self._numbered(made)
                self._write(wire + EXTRA_BYTES)
                self.close()  # from here on, answers can no longer be told apart
            case FaultKind.SLOW_BODY:
                self._begin_slowly(made)
            case _:
                super()._send(made)

    def _begin_slowly(self, made: _Spoiled) -> None:
        """Send the head; the body follows in pieces, before the other answers that wait."""
        wire, closes = self._numbered(made)
        sizes = [len(wire) - len(made.body) + len(made.body) * number // _PIECES for number in range(_PIECES + 1)]
        self._write(wire[: sizes[0]])
        duration_s = made.fault.duration_s if made.fault is not None else 0.0
        pieces = [
            _Piece(duration_s / _PIECES, b"", b"", wire[begin:end], 0, 0, closes=False)
            for begin, end in pairwise(sizes[:-1])
        ]
        last = wire[sizes[-2] :]
        pieces.append(_Piece(duration_s / _PIECES, b"", b"", last, made.body_bytes, 0, closes, is_last=True))
        self.waiting.extendleft(reversed(pieces))

    def _send_piece(self, piece: _Piece) -> None:
        if not piece.is_last:
            self._write(piece.wire)
            return
        self._answered(piece.body_bytes)
        self._write(piece.wire)
        self._close_or_stay(piece)

    def _note(self, kind: FaultKind) -> None:
        self._counts.faults[FAULT_NUMBERS[kind]] += 1

    def _is_counted(self, made: Answer) -> bool:
        return super()._is_counted(made) and (not isinstance(made, _Piece) or made.is_last)

    def _reset(self) -> None:
        """Close with RST."""
        self._closing = True
        reset(self.transport)
