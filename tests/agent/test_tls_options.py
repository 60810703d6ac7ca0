"""`TlsOptions`: what is refused, by name, and what is told from what."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent import (
    AsyncKeepAliveAgent,
    TlsOptions,
)
from tests.sockets import (
    Peer,
    ScriptedServer,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.certificates import (
    PASSWORD,
    Keys,
    read_all,
)

# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "option"),
    [
        ({"verify": "ca.pem"}, TypeError, "verify"),
        ({"verify": 0}, TypeError, "verify"),
        ({"ca_file": b"ca.pem"}, TypeError, "ca_file"),
        ({"key_password": 1}, TypeError, "key_password"),
        ({"minimum_version": "1.1"}, ValueError, "minimum_version"),
        ({"minimum_version": None}, ValueError, "minimum_version"),
        ({"minimum_version": None, "maximum_version": "1.3"}, ValueError, "minimum_version"),
        ({"maximum_version": 1.3}, ValueError, "maximum_version"),
        ({"minimum_version": "1.3", "maximum_version": "1.2"}, ValueError, "imum_version"),
        ({"key_file": "key.pem"}, ValueError, "key_file"),
        ({"context": True}, TypeError, "context"),
        ({"context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "ca_file": "ca.pem"}, ValueError, "ca_file"),
    ],
)
def test_options_that_are_none_are_refused_by_name(given: dict[str, Any], error: type[Exception], option: str) -> None:
    with pytest.raises(error, match=option):
        TlsOptions(**given)


def test_options_show_no_secrets(keys: Keys) -> None:
    options = TlsOptions(
        ca_data=keys.ca_data,
        cert_file=keys.client_certificate_file,
        key_file=keys.locked_key_file,
        key_password=PASSWORD,
    )
    for text in (repr(options), str(options)):
        assert PASSWORD not in text
        assert "BEGIN CERTIFICATE" not in text
        assert keys.locked_key_file in text


def test_equal_options_have_equal_digests_and_others_have_not() -> None:
    some = [
        TlsOptions(),
        TlsOptions(verify=False),
        TlsOptions(ca_file="a"),
        TlsOptions(ca_folder="a"),
        TlsOptions(ca_data="a"),
        TlsOptions(cert_file="a"),
        TlsOptions(cert_file="a", key_file="a"),
        TlsOptions(cert_file="a", key_password="a"),
        TlsOptions(server_name="a"),
        TlsOptions(minimum_version="1.3"),
        TlsOptions(maximum_version="1.3"),
        TlsOptions(context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)),
    ]
    assert len({options.digest for options in some}) == len(some)
    assert all(re.fullmatch(r"[0-9a-f]{8}", options.digest) for options in some)
    assert TlsOptions(ca_file="a").digest == TlsOptions(ca_file="a").digest


def bad_files(keys: Keys) -> dict[str, tuple[dict[str, Any], str]]:
    """Options that cannot be used, with the one that is to be named."""
    missing = str(keys.folder / "missing")
    certificate = {"cert_file": keys.client_certificate_file}
    return {
        "no authorities file": ({"ca_file": missing}, "ca_file"),
        "an authorities file of garbage": ({"ca_file": keys.garbage_file}, "ca_file"),
        "no authorities folder": ({"ca_folder": missing}, "ca_folder"),
        "a file for a folder": ({"ca_folder": keys.ca_file}, "ca_folder"),
        "authorities of garbage": ({"ca_data": "garbage"}, "ca_data"),
        "no certificate file": ({"cert_file": missing}, "cert_file"),
        "a certificate file of garbage": ({"cert_file": keys.garbage_file}, "cert_file"),
        "a certificate without its key": (certificate, "cert_file"),
        "no key file": ({**certificate, "key_file": missing}, "key_file"),
        "a key file of garbage": ({**certificate, "key_file": keys.garbage_file}, "key_file|cert_file"),
        "another certificate's key": ({**certificate, "key_file": keys.other_key_file}, "key_file|cert_file"),
        "a locked key without a password": ({**certificate, "key_file": keys.locked_key_file}, "key_|cert_file"),
        "a locked key with another's password": (
            {**certificate, "key_file": keys.locked_key_file, "key_password": "not it"},
            "key_|cert_file",
        ),
    }


BAD_FILES = [
    "no authorities file",
    "an authorities file of garbage",
    "no authorities folder",
    "a file for a folder",
    "authorities of garbage",
    "no certificate file",
    "a certificate file of garbage",
    "a certificate without its key",
    "no key file",
    "a key file of garbage",
    "another certificate's key",
    "a locked key without a password",
    "a locked key with another's password",
]


@pytest.mark.parametrize("case", BAD_FILES)
def test_an_agent_refuses_files_it_cannot_use_and_names_the_option(keys: Keys, case: str) -> None:
    given, option = bad_files(keys)[case]
    with pytest.raises(ValueError, match=f"^({option})") as caught:
        AsyncKeepAliveAgent(tls=TlsOptions(**given))
    assert "not it" not in str(caught.value)


def test_a_request_with_files_that_cannot_be_used_is_refused_before_anything_is_sent(run: Run, keys: Keys) -> None:
    async def main() -> None:
        async with ScriptedServer(read_all) as server, AsyncKeepAliveAgent(tls=keys.trusted()) as agent:
            with pytest.raises(ValueError, match=r"^ca_file"):
                await agent.request("GET", f"https://127.0.0.1:{server.port}/", tls=TlsOptions(ca_file="missing"))
            assert server.sockets == 0
            assert agent.get_current_status().sockets == {}

    run(main())
