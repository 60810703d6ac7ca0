"""urllib3's errors for responses that cannot be trusted (AK-56).

Sending a request again because its response makes no sense would not help, and may do harm; urllib3 does it for every
`ProtocolError`. These errors are `ProtocolError`s too, so that they are caught as such, but they are raised where
urllib3 starts no retry.
"""

from __future__ import annotations

from urllib3.exceptions import InvalidHeader, ProtocolError

from kabench.agent.errors import ConflictingLengthsError, ResponseParseError


class UntrustedResponseError(ProtocolError):
    """The response cannot be trusted."""


class UntrustedLengthError(UntrustedResponseError, InvalidHeader):
    """The response has two lengths, for which urllib3 raises `InvalidHeader`."""


def untrusted(what: str, error: ResponseParseError) -> UntrustedResponseError:
    """Return the error that urllib3's callers expect in place of ours."""
    kind = UntrustedLengthError if isinstance(error, ConflictingLengthsError) else UntrustedResponseError
    return kind(what, error)
