"""The cache of TLS sessions, with made-up sessions and a made-up clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from kabench.agent.tls import SessionCache


@dataclass
class Session:
    """As much of an `ssl.SSLSession` as the cache looks at."""

    time: float
    has_ticket: bool = True
    ticket_lifetime_hint: int = 100
    timeout: int = 300
    id: bytes = b""


class Tls:
    """A connection that counts how often its session was taken out of it."""

    def __init__(self, session: Session | None, *, session_reused: bool = True, version: str = "TLSv1.3") -> None:
        self._session = session
        self._version = version
        self.session_reused = session_reused
        self.taken = 0

    @property
    def session(self) -> Session | None:
        self.taken += 1
        return self._session

    def version(self) -> str:
        return self._version


def keep(cache: SessionCache, tls: Tls, now: float, origin: str = "https://a:443") -> bool:
    return cache.keep(origin, cast("Any", tls), now)


def test_a_resumed_connection_s_session_is_taken_when_the_kept_one_has_lived_half_its_life() -> None:
    cache = SessionCache(10)
    assert keep(cache, Tls(Session(1000.0), session_reused=False), 1000.0)
    young, old = Tls(Session(1049.0)), Tls(Session(1050.0))
    assert keep(cache, young, 1049.0)
    assert young.taken == 0
    assert keep(cache, old, 1050.0)
    assert old.taken == 1
    assert cast("Any", cache.get("https://a:443")).time == 1050.0


def test_a_session_that_was_not_resumed_replaces_the_kept_one() -> None:
    cache = SessionCache(10)
    keep(cache, Tls(Session(1000.0)), 1000.0)
    keep(cache, Tls(Session(1001.0), session_reused=False), 1001.0)
    assert cast("Any", cache.get("https://a:443")).time == 1001.0


@pytest.mark.parametrize(
    ("session", "version", "is_kept"),
    [
        (None, "TLSv1.3", False),
        (Session(0.0, has_ticket=False, id=b"id"), "TLSv1.3", False),
        (Session(0.0, has_ticket=False, id=b"id"), "TLSv1.2", True),
        (Session(0.0, has_ticket=False), "TLSv1.2", False),
        (Session(0.0), "TLSv1.2", True),
    ],
)
def test_only_what_can_be_resumed_is_kept(session: Session | None, version: str, is_kept: bool) -> None:
    cache = SessionCache(10)
    assert keep(cache, Tls(session, version=version, session_reused=False), 0.0) is is_kept
    assert len(cache) == is_kept


def test_a_cache_of_none_takes_nothing_out() -> None:
    cache = SessionCache(0)
    tls = Tls(Session(0.0), session_reused=False)
    assert keep(cache, tls, 0.0)
    assert (tls.taken, len(cache)) == (0, 0)


def test_the_least_recently_used_origin_leaves_first() -> None:
    cache = SessionCache(2)
    for origin in ("a", "b"):
        keep(cache, Tls(Session(0.0), session_reused=False), 0.0, origin)
    cache.get("a")
    keep(cache, Tls(Session(0.0), session_reused=False), 0.0, "c")
    assert [origin for origin in ("a", "b", "c") if cache.get(origin)] == ["a", "c"]
