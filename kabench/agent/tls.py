"""TLS settings, contexts and sessions, for every driver. No I/O but reading certificate files.

A session that has been kept from one connection makes the next handshake shorter: no certificate is sent or checked,
and in TLS 1.2 a round trip is saved (RFC 5077, RFC 8446 section 2.2). OpenSSL resumes a session only in the context it
was made in, so contexts are kept too.
"""

from __future__ import annotations

import hashlib
import ssl
import sys
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

TlsVersion = Literal["1.2", "1.3"]

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_ALPN = ["http/1.1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """How https sockets are secured. By default: certificates are verified against the system's authorities.

    `verify=False` accepts any certificate, so anybody on the way can pose as the server. `ca_file`, `ca_folder`
    (hashed names, see openssl-rehash) and `ca_data` (PEM text) name the authorities instead of the system's.
    `cert_file` is the client's certificate, `key_file` its key where it is not in the same file, and `key_password`
    opens the key. `server_name` is what is sent as server name (SNI) and looked for in the certificate; without it, the
    URL's host. `context` is an `ssl.SSLContext` that is used as it is, for all other settings; only
    `server_name` can be given with it.

    Raises `TypeError` for a wrong type and `ValueError` for values that do not fit together; both name the option.
    """

    verify: bool = True
    ca_file: str | None = None
    ca_folder: str | None = None
    ca_data: str | None = field(default=None, repr=False)
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    server_name: str | None = None
    minimum_version: TlsVersion = "1.2"
    maximum_version: TlsVersion | None = None
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.verify, bool):
            raise TypeError(f"verify: {self.verify!r} is neither True nor False (authorities go into ca_file)")
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name in _TEXTS and not isinstance(value, str | Path | None):
                raise TypeError(f"{option.name}: {value!r} is no text")
            if option.name in _TEXTS and isinstance(value, Path):
                object.__setattr__(self, option.name, str(value))
        for name, value in (("minimum_version", self.minimum_version), ("maximum_version", self.maximum_version)):
            if value not in _VERSIONS and not (name == "maximum_version" and value is None):
                raise ValueError(f"{name}: {value!r} is neither '1.2' nor '1.3'")
        if self.maximum_version is not None and self.maximum_version < self.minimum_version:
            raise ValueError(f"maximum_version: {self.maximum_version} is below {self.minimum_version}, the minimum")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError(f"key_file: {self.key_file} goes with a cert_file")
        if self.context is not None:
            if not isinstance(self.context, ssl.SSLContext):
                raise TypeError(f"context: {self.context!r} is no ssl.SSLContext")
            for option in fields(self):
                if option.name not in ("context", "server_name") and getattr(self, option.name) != option.default:
                    raise ValueError(f"{option.name}: a context is used as it is; set this there")

    @property
    def digest(self) -> str:
        """Eight hex digits that tell these options from others, for the key of an origin."""
        return digest_of([str(getattr(self, option.name)) for option in fields(self)])

    def make_context(self) -> ssl.SSLContext:
        """Return the context of these options. Raises `ValueError`, naming the file, if one cannot be used."""
        if self.context is not None:
            return self.context
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = _VERSIONS[self.minimum_version]
        if self.maximum_version is not None:
            context.maximum_version = _VERSIONS[self.maximum_version]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(_ALPN)
        if sys.version_info >= (3, 13):  # what ssl.create_default_context() asks for since then
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca_file is None and self.ca_folder is None and self.ca_data is None:
            context.load_default_certs()
        else:
            self._load_authorities(context)
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, self.key_password or "")
            except (OSError, ValueError) as error:  # a missing file, no certificate, not its key, a wrong password
                is_key = self.key_file is not None and not Path(self.key_file).is_file()
                name, file = ("key_file", self.key_file) if is_key else ("cert_file", self.cert_file)
                raise ValueError(f"{name}: {file} cannot be used: {_reason(error)}") from None
        return context

    def _load_authorities(self, context: ssl.SSLContext) -> None:
        if self.ca_folder is not None and not Path(self.ca_folder).is_dir():
            raise ValueError(f"ca_folder: {self.ca_folder} is no folder")
        for name, value in (("ca_file", self.ca_file), ("ca_folder", self.ca_folder), ("ca_data", self.ca_data)):
            if value is None:
                continue
            try:
                context.load_verify_locations(
                    cafile=self.ca_file if name == "ca_file" else None,
                    capath=self.ca_folder if name == "ca_folder" else None,
                    cadata=self.ca_data if name == "ca_data" else None,
                )
            except (OSError, ValueError) as error:
                shown = "the text" if name == "ca_data" else value
                raise ValueError(f"{name}: {shown} cannot be used: {_reason(error)}") from None


_TEXTS = frozenset({"ca_file", "ca_folder", "ca_data", "cert_file", "key_file", "key_password", "server_name"})


def digest_of(settings: list[str]) -> str:
    """Return eight hex digits that tell one list of settings from another."""
    return hashlib.sha256("\0".join(settings).encode()).hexdigest()[:8]


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "it is no PEM file of that kind, or the password is wrong"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


class InsecureTlsWarning(UserWarning):
    """Certificates are not verified."""


class TlsContexts:
    """The contexts of one agent: that of its own options, and those of options given with single requests.

    Raises `ValueError` for options that cannot be used, and warns of those that verify nothing.
    """

    def __init__(self, options: TlsOptions | None) -> None:
        self._default = options or TlsOptions()
        self._contexts: dict[TlsOptions | None, ssl.SSLContext] = {}
        if options is not None:
            self._make(None)

    def unless_default(self, options: TlsOptions | None) -> TlsOptions | None:
        """Return the options of a request, or None if they are the agent's own."""
        if options is None or options == self._default:
            return None
        if options not in self._contexts:
            self._make(options)
        return options

    def get(self, options: TlsOptions | None) -> tuple[ssl.SSLContext, str | None]:
        """Return the context of options (None: the agent's own), and the server name that they set, if any."""
        context = self._contexts.get(options) or self._make(options)
        return context, (options or self._default).server_name

    def _make(self, options: TlsOptions | None) -> ssl.SSLContext:
        context = self._contexts[options] = (options or self._default).make_context()
        if context.verify_mode is not ssl.CERT_REQUIRED:
            warnings.warn(
                "certificates are not verified: anybody on the way can read and change what is sent",
                InsecureTlsWarning,
                stacklevel=4,
            )
        return context


class SessionCache:
    """The last session of each origin, and counts of handshakes. The least recently used session is dropped first.

    `handshake_count` handshakes were finished, `resumed_count` of them with a session from here. Safe for threads.
    """

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._sessions: OrderedDict[str, ssl.SSLSession] = OrderedDict()
        self._lock = threading.Lock()
        self.handshake_count = 0
        self.resumed_count = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def after_fork(self) -> None:
        """Replace the lock in a child process: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def get(self, origin: str) -> ssl.SSLSession | None:
        """Return the session to resume at an origin, if there is one."""
        with self._lock:
            session = self._sessions.get(origin)
            if session is not None:
                self._sessions.move_to_end(origin)
            return session

    def drop(self, origin: str) -> None:
        """Forget an origin's session."""
        with self._lock:
            self._sessions.pop(origin, None)

    def shook_hands(self, *, resumed: bool) -> None:
        """Count a finished handshake."""
        with self._lock:
            self.handshake_count += 1
            self.resumed_count += resumed

    def keep(self, origin: str, tls: ssl.SSLObject | ssl.SSLSocket, now: float) -> bool:
        """Keep a connection's session, if it can be resumed.

        After a resumed handshake it is kept only if the session kept before has lived half of its life by `now`.

        Returns False if there is no session yet. In TLS 1.3 a session comes with a ticket, some time after the
        handshake (RFC 8446 section 4.6.1). Taking a session out of OpenSSL costs about as much as resuming it saves, so
        not every one is taken. `now` is OpenSSL's time, `time.time()`.
        """
        if not self._max_sessions or (tls.session_reused and self._is_young(origin, now)):
            return True
        session = tls.session
        if session is None or not (session.has_ticket or (session.id and tls.version() != "TLSv1.3")):
            return False
        with self._lock:
            self._sessions[origin] = session
            self._sessions.move_to_end(origin)
            if len(self._sessions) > self._max_sessions:
                self._sessions.popitem(last=False)
        return True

    def _is_young(self, origin: str, now: float) -> bool:
        session = self._sessions.get(origin)
        if session is None:
            return False
        lifetime_s = session.ticket_lifetime_hint or session.timeout
        return now < session.time + lifetime_s / 2
