"""Measures what TLS costs the asyncio agent, and what resuming sessions saves: against one nginx worker, 0 ms.

The first table has keep-alive over http and https. The others have a new socket for every request, with and without
resumed sessions, for 60 users and for one, with RSA-2048 and ECDSA P-256 certificates and an intermediate authority, as
public certificates have. The version is TLS 1.3 unless the row says otherwise.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trustme
from against import add_option, against_table
from peers import PINNED, Figures, PeerFailedError, in_rounds, nginx, pin_client, table, timed
from rich.console import Console

from kabench.agent import AgentOptions
from kabench.load import LoadPlan
from kabench.load import run as run_load

if TYPE_CHECKING:
    from collections.abc import Callable

SOCKETS = 50
USERS = 60


def measure(url: str, cacert: str | None, seconds: float, agent: str, sessions: int, users: int) -> Figures:
    pin_client()
    options = AgentOptions(max_sockets=SOCKETS, free_socket_timeout=30, max_cached_sessions=sessions)
    plan = LoadPlan(
        url=url, method="GET", data=b"", agent_options=options, concurrency=users, duration_s=seconds, cacert=cacert
    )
    (run,) = run_load(plan, [agent]).runs
    if run.failed_transactions or run.client.cpu_us_per_transaction is None:
        raise PeerFailedError(json.dumps(run.errors))
    resumed, handshakes = run.sockets.tls_resumed, run.sockets.tls_handshakes
    if agent == "plain" and cacert is not None and bool(resumed) != (sessions > 0):
        raise PeerFailedError(f"{resumed} of {handshakes} handshakes resumed")
    return Figures(run.transaction_rate, run.client.cpu_us_per_transaction)


def measure_in(environment: dict[str, str], *arguments: str | float | None) -> Figures:
    """Run `measure` in a process of its own, with the build that the environment names."""
    printed, _ = timed([sys.executable, __file__, "--row", json.dumps(arguments)], **environment)
    return Figures(**json.loads(printed.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--loads", nargs="*", default=["keep-alive", "plain", "one-user"])
    parser.add_argument("--row", default=None, help=argparse.SUPPRESS)
    add_option(parser)
    given = parser.parse_args()
    PINNED.set()
    if given.row is not None:
        print(json.dumps(dataclasses.asdict(measure(*json.loads(given.row)))))
        return
    console = Console(width=120)
    with ExitStack() as running:

        def https(key_type: trustme.KeyType, versions: str = "TLSv1.2 TLSv1.3") -> tuple[str, str]:
            authority = trustme.CA(key_type=key_type)
            issuer = authority.create_child_ca(key_type=key_type)
            certificate = issuer.issue_cert("127.0.0.1", key_type=key_type)
            url = running.enter_context(nginx(certificate, versions))
            file = running.enter_context(tempfile.NamedTemporaryFile(suffix=".pem"))
            authority.cert_pem.write_to_path(file.name)
            return url, file.name

        rsa, ecdsa = https(trustme.KeyType.RSA), https(trustme.KeyType.ECDSA)
        rsa_12, ecdsa_12 = https(trustme.KeyType.RSA, "TLSv1.2"), https(trustme.KeyType.ECDSA, "TLSv1.2")
        http = running.enter_context(nginx()), None

        def job(
            where: tuple[str, str | None], agent: str, sessions: int = 100, users: int = USERS
        ) -> Callable[..., Figures]:
            arguments = (*where, given.seconds, agent, sessions, users)
            if given.against is not None:
                return lambda environment: measure_in(environment, *arguments)
            return functools.partial(measure, *arguments)

        kept = {"http": job(http, "keepalive"), "https": job(rsa, "keepalive")}
        plain = {
            "RSA, no session": job(rsa, "plain", 0),
            "RSA, resumed": job(rsa, "plain"),
            "ECDSA, no session": job(ecdsa, "plain", 0),
            "ECDSA, resumed": job(ecdsa, "plain"),
            "TLS 1.2, RSA, no session": job(rsa_12, "plain", 0),
            "TLS 1.2, RSA, resumed": job(rsa_12, "plain"),
            "TLS 1.2, ECDSA, no session": job(ecdsa_12, "plain", 0),
            "TLS 1.2, ECDSA, resumed": job(ecdsa_12, "plain"),
        }
        one_user = {
            "RSA, no session": job(rsa, "plain", 0, 1),
            "RSA, resumed": job(rsa, "plain", 100, 1),
            "ECDSA, no session": job(ecdsa, "plain", 0, 1),
            "ECDSA, resumed": job(ecdsa, "plain", 100, 1),
        }
        loads = {
            "keep-alive": ("keep-alive, 50 sockets, 60 users", "http", kept),
            "plain": ("a socket a request (plain)", "RSA, no session", plain),
            "one-user": ("the same, one user", "RSA, no session", one_user),
        }
        tables = [
            table(title, base, in_rounds(jobs, given.rounds, console))
            if given.against is None
            else against_table(title, jobs, given.against, given.rounds, console)
            for name, (title, base, jobs) in loads.items()
            if name in given.loads
        ]
    for made in tables:
        console.print()
        console.print(made)


if __name__ == "__main__":
    main()
