"""TLS contexts of a threaded agent: one for each set of urllib3's TLS options, so that sessions can be resumed.

urllib3 makes a context for every connection and has no place for a session. Here a connection is lent a context that is
made once, and that offers the origin's last session when urllib3 wraps a socket in it.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import SSLError
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs, resolve_ssl_version

if TYPE_CHECKING:
    import socket

    from urllib3.connection import HTTPSConnection

    from kabench.agent.tls import SessionCache

CONTEXT_OPTIONS = (
    "cert_reqs",
    "ssl_version",
    "ssl_minimum_version",
    "ssl_maximum_version",
    "ca_certs",
    "ca_cert_dir",
    "ca_cert_data",
    "cert_file",
    "key_file",
    "key_password",
    "assert_hostname",
    "assert_fingerprint",
)
"""urllib3's options that a context is made from."""

_FILES = ("ca_certs", "cert_file", "key_file")
_MAX_CONTEXTS = 64
_LOADED = ("ca_certs", "ca_cert_dir", "ca_cert_data", "cert_file", "key_file", "key_password")
"""Options that are loaded into a context when it is made, and not again for each connection."""


class ResumingContext:
    """A context that offers a session when it wraps a socket, and otherwise acts as the context it was made from."""

    _own = frozenset({"_context", "_sessions", "_session_key"})

    def __init__(self, context: ssl.SSLContext, sessions: SessionCache, session_key: str) -> None:
        self._context = context
        self._sessions = sessions
        self._session_key = session_key

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str | None = None) -> ssl.SSLSocket:
        """Wrap a socket as ssl does, offering the last session. An end without close_notify is an error."""
        if type(self._context).wrap_socket is not ssl.SSLContext.wrap_socket:  # overridden; it may take no session
            return self._context.wrap_socket(sock, server_hostname=server_hostname)
        return self._context.wrap_socket(
            sock,
            server_hostname=server_hostname,
            suppress_ragged_eofs=False,
            session=self._sessions.get(self._session_key),
        )

    def __getattr__(self, name: str) -> Any:  # whatever the context has
        return getattr(self._context, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        else:
            setattr(self._context, name, value)


class ContextStore:
    """The contexts of one agent."""

    def __init__(self, sessions: SessionCache) -> None:
        self._sessions = sessions
        self._contexts: dict[tuple[object, ...], ssl.SSLContext] = {}  # no lock, since a fork could inherit a held one

    def lend(self, connection: HTTPSConnection, origin: str) -> tuple[str | None, dict[str, Any]]:
        """Give a connection a context that resumes sessions; return their key, and the options to restore afterwards.

        The key is None where no session is kept. `take_back` restores the options. Raises urllib3's `SSLError` for
        files that cannot be used.
        """
        if connection.proxy is not None and connection.proxy.scheme == "https":
            return None, {}  # two layers of TLS, with settings that urllib3 tells apart by itself
        given = {name: getattr(connection, name) for name in ("ssl_context", *_LOADED)}
        context = connection.ssl_context
        if context is None:
            context = self._context_for(connection)
            for name in _LOADED:
                setattr(connection, name, None)
        key = f"{origin} {id(context):x}"
        connection.ssl_context = ResumingContext(context, self._sessions, key)  # type: ignore[assignment]  # acts as one
        return key, given

    def _context_for(self, connection: HTTPSConnection) -> ssl.SSLContext:
        made_of = tuple(getattr(connection, name) for name in CONTEXT_OPTIONS)
        made_of += tuple(_version_of(getattr(connection, name)) for name in _FILES)
        context = self._contexts.get(made_of)
        if context is None:
            if len(self._contexts) >= _MAX_CONTEXTS:
                self._contexts.clear()
            context = self._contexts.setdefault(made_of, self._make(connection))
        return context

    def _make(self, connection: HTTPSConnection) -> ssl.SSLContext:
        context = create_urllib3_context(
            ssl_version=resolve_ssl_version(connection.ssl_version),
            ssl_minimum_version=connection.ssl_minimum_version,
            ssl_maximum_version=connection.ssl_maximum_version,
            cert_reqs=resolve_cert_reqs(connection.cert_reqs),
        )
        context.options &= ~ssl.OP_NO_TICKET  # in TLS 1.2 most servers resume by ticket only
        authorities = (connection.ca_certs, connection.ca_cert_dir, connection.ca_cert_data)
        try:
            if any(authorities):
                context.load_verify_locations(*authorities)
            else:
                context.load_default_certs()
            if connection.cert_file:
                context.load_cert_chain(connection.cert_file, connection.key_file, connection.key_password or "")
        except OSError as error:
            raise SSLError(error) from error
        return context

    def take_back(self, connection: HTTPSConnection, given: dict[str, Any]) -> None:
        """Undo `lend`: urllib3 reads the connection's own options later."""
        for name, value in given.items():
            setattr(connection, name, value)


def _version_of(file: str | None) -> tuple[int, ...]:
    """Return what changes when a file is renewed in place, as certificates are: its time, size and inode."""
    if not file:
        return ()
    try:
        found = Path(file).stat()
    except OSError:
        return ()  # loading it will raise the error
    return found.st_mtime_ns, found.st_size, found.st_ino
