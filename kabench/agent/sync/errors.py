"""urllib3's errors for responses that cannot be trusted (AK-56).

To send a request again because its response makes no sense would not help, and may do harm; urllib3 does it for every
`ProtocolError`. These are some, so that whoever catches those catches them, and are raised where no retry begins.
"""

from __future__ import annotations

from urllib3.exceptions import InvalidHeader, ProtocolError

from kabench.agent.errors import ConflictingLengthsError, ResponseParseError


class UntrustedResponseError(ProtocolError):
    """What came is no response that can be trusted."""


class UntrustedLengthError(UntrustedResponseError, InvalidHeader):
    """The response has two lengths, for which urllib3 raises `InvalidHeader`."""


def untrusted(what: str, error: ResponseParseError) -> UntrustedResponseError:
    """Return the error that urllib3's callers expect in place of ours."""
    kind = UntrustedLengthError if isinstance(error, ConflictingLengthsError) else UntrustedResponseError
    return kind(what, error)
