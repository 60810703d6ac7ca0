"""The kinds of errors in reports: an exception of any client becomes a name that means the same for all clients.

Libraries wrap errors in errors of their own, so the whole chain behind an exception is looked at.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kabench.agent import AgentError, CertificateError, ConnectError, ConnectTimeoutError, TlsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kabench.load.plan.source import Request

CONNECT_FAILED, CONNECT_TIMEOUT = ConnectError.kind, ConnectTimeoutError.kind
NOT_REACHED = frozenset({CONNECT_FAILED, CONNECT_TIMEOUT, TlsError.kind, CertificateError.kind})
"""The kinds of errors of a request that got no socket: no server answered, or one with the wrong certificate."""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all errors that it was made or raised from."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
            waiting += [getattr(found, name, None) for name in ("os_error", "certificate_error")]


def kind_of(error: BaseException) -> str:
    """Return the name of an error in reports: of an agent's error in its chain, else its own `kind` or class name."""
    chain = list(_chain(error))
    for found in chain:
        if isinstance(found, AgentError):
            return found.kind
    own = getattr(error, "kind", None)
    if isinstance(own, str):
        return own
    names = {kind.__name__ for found in chain for kind in type(found).__mro__}
    if any(isinstance(found, ssl.SSLCertVerificationError) for found in chain):
        return CertificateError.kind
    if any(isinstance(found, ConnectionRefusedError | socket.gaierror) for found in chain):
        return CONNECT_FAILED
    if names & _CONNECT_TIMEOUTS:
        return CONNECT_TIMEOUT
    reason = getattr(error, "reason", None)
    if isinstance(reason, Exception):  # urllib3 has sent the request as often as it may
        return kind_of(reason)
    name = type(error).__name__.removesuffix("Error").removesuffix("Exception") or "error"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


_CONNECT_TIMEOUTS = {"ConnectTimeout", "ConnectTimeoutError", "ConnectionTimeoutError"}
"""The names of this error in urllib3, requests, httpx and aiohttp."""


def described(error: BaseException, request: Request) -> str:
    """Return in words why a request could not be sent, without anything that the request holds."""
    parts = urlsplit(request.url)
    where = f"{parts.scheme}://{parts.netloc}"
    for found in _chain(error):
        if isinstance(found, AgentError):
            return str(found)
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"{where}: the certificate was not accepted: {found.verify_message}"
        if isinstance(found, socket.gaierror):
            return f"the host name {parts.hostname!r} does not resolve: {found.strerror}"
    number = next((e.errno for e in _chain(error) if isinstance(e, OSError) and isinstance(e.errno, int)), None)
    return f"{where}: {os.strerror(number) if number else kind_of(error).replace('_', ' ')}"
