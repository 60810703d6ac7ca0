"""`Answer`: an answer as a client hands it over, which has been sent and read elsewhere."""

from __future__ import annotations

from typing import NamedTuple


class Answer(NamedTuple):
    """A status and a decoded body. `wire_bytes` is how long the body was as it came; None if the client cannot tell."""

    status: int
    body: bytes
    wire_bytes: int | None = None
