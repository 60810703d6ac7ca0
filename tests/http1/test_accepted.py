"""Accepted sockets, whatever is served on them."""

from __future__ import annotations

from typing import Any

from kabench.http1.accepted import AcceptedSocket
from kabench.http1.client_limits import ClientLimits


class HeldTransport:
    """A transport that is not read from, and notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def write(self, data: bytes) -> None:
        self.done.append(f"write {len(data)}")

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.done.append("end its own side")

    def is_reading(self) -> bool:
        return False

    def resume_reading(self) -> None:
        self.done.append("read")

    def close(self) -> None:
        self.done.append("close")


class Refused(AcceptedSocket):
    """A socket whose client is to be refused."""

    def _stop_listening(self) -> None:
        """Nothing waits."""


def lingering(*, half_closed: bool) -> list[str]:
    transport: Any = HeldTransport()
    socket = Refused(ClientLimits())
    socket.connection_made(transport)
    socket._half_closed = half_closed
    socket.close_lingering()
    done: list[str] = transport.done
    return done


def test_a_socket_that_lingers_is_read_from_even_if_reading_was_held() -> None:
    assert lingering(half_closed=False) == ["end its own side", "read"]


def test_a_socket_whose_client_has_finished_sending_does_not_linger() -> None:
    assert lingering(half_closed=True) == ["close"]
