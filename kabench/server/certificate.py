"""The server's certificate: from files, or a throw-away one by an authority that exists for this run alone."""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kabench.server.options import ServerOptions

_ALPN = ["http/1.1"]
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class CertificateError(ValueError):
    """The server's certificate or key cannot be used."""


def server_context(options: ServerOptions) -> tuple[ssl.SSLContext, str | None]:
    """Return a server's TLS context, and the certificate (PEM) of the throw-away authority if one was made.

    Raises `CertificateError`, naming the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    if options.cert_file is None:
        return context, _throw_away(context, options.host)
    try:
        context.load_cert_chain(options.cert_file, options.key_file, password="")  # never ask a terminal
    except (OSError, ValueError) as error:
        if options.key_file is not None and not Path(options.key_file).is_file():
            raise CertificateError(f"the key {options.key_file} cannot be used: no such file") from None
        if isinstance(error, ssl.SSLError):
            reason = error.reason or "it is no PEM file with a certificate and an unencrypted key"
        else:
            reason = getattr(error, "strerror", None) or str(error)
        raise CertificateError(f"the certificate {options.cert_file} cannot be used: {reason}") from None
    return context, None


def _throw_away(context: ssl.SSLContext, host: str) -> str:
    import trustme  # 0.1 s, only where a certificate is needed

    authority = trustme.CA(organization_name="kabench", organization_unit_name="throw-away")
    names = dict.fromkeys((*_LOCAL_NAMES, host)) if host not in ("0.0.0.0", "::") else dict.fromkeys(_LOCAL_NAMES)  # noqa: S104
    authority.issue_cert(*names).configure_cert(context)
    return authority.cert_pem.bytes().decode("ascii")


@contextlib.contextmanager
def as_file(pem: str) -> Iterator[Path]:
    """Write a certificate to a file, for clients that take only files; delete it afterwards."""
    number, name = tempfile.mkstemp(prefix="kabench-ca-", suffix=".pem")
    try:
        with os.fdopen(number, "w") as file:
            file.write(pem)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
