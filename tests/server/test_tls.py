"""The echo server over https: a throw-away certificate, or one from files."""

from __future__ import annotations

import ssl
import urllib.request
from typing import TYPE_CHECKING

import pytest
import trustme

from kabench.server import EmbeddedServer, ServerError, ServerOptions

if TYPE_CHECKING:
    from pathlib import Path


def get(url: str, ca_data: str | None) -> bytes:
    context = ssl.create_default_context(cadata=ca_data)
    with urllib.request.urlopen(url, context=context, timeout=10) as response:
        body: bytes = response.read()
        return body


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_throw_away_certificate_is_good_for_its_own_authority_alone(host: str) -> None:
    with EmbeddedServer(ServerOptions(host=host, delay_s=0, tls=True)) as server:
        assert server.url.startswith("https://")
        assert b'"size":0' in get(server.url, server.ca_data).replace(b" ", b"")
        with pytest.raises(OSError, match="certificate verify failed"):
            get(server.url, None)


def test_a_certificate_from_files(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    options = ServerOptions(
        delay_s=0, tls=True, cert_file=str(tmp_path / "cert.pem"), key_file=str(tmp_path / "key.pem")
    )
    with EmbeddedServer(options) as server:
        assert server.ca_data is None
        assert get(server.url, authority.cert_pem.bytes().decode())


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.pem")
    with pytest.raises(ServerError, match=r"missing\.pem cannot be used: No such file"):
        EmbeddedServer(ServerOptions(tls=True, cert_file=missing))
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ServerError, match=r"empty\.pem cannot be used"):
        EmbeddedServer(ServerOptions(tls=True, cert_file=str(tmp_path / "empty.pem")))


@pytest.mark.parametrize(("key_file", "cert_file", "tls"), [("key.pem", None, True), (None, "cert.pem", False)])
def test_what_does_not_go_together_is_refused(key_file: str | None, cert_file: str | None, tls: bool) -> None:
    with pytest.raises(ValueError, match="certificate"):
        ServerOptions(tls=tls, cert_file=cert_file, key_file=key_file)
