"""Fixtures of the agents' tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.sockets import (
        Peer,
    )

    Run = Callable[[Coroutine[Any, Any, Any]], Any]
    Handler = Callable[[Peer], Awaitable[None]]

from tests.certificates import (
    PASSWORD,
    Keys,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("keys")
    ca = trustme.CA()
    client, other = ca.issue_cert("client@kabench.test"), ca.issue_cert("other@kabench.test")
    locked = serialization.load_pem_private_key(client.private_key_pem.bytes(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD.encode()),
    )
    files = {
        "ca": ca.cert_pem.bytes(),
        "client": client.private_key_and_cert_chain_pem.bytes(),
        "client_certificate": client.cert_chain_pems[0].bytes(),
        "client_key": client.private_key_pem.bytes(),
        "locked_key": locked,
        "other_key": other.private_key_pem.bytes(),
        "garbage": b"this is no certificate\n",
    }
    for name, content in files.items():
        (folder / f"{name}.pem").write_bytes(content)
    return Keys(
        folder=folder,
        ca=ca,
        server=ca.issue_cert("127.0.0.1", "::1", "localhost", "service.test"),
        other_name=ca.issue_cert("another.test"),
        expired=ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)),
        **{f"{name}_file": str(folder / f"{name}.pem") for name in files},
    )
