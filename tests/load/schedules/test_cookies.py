"""The cookies of one user: what a server may have it send."""

from __future__ import annotations

from kabench.agent.aio.request import prepare
from kabench.load.schedules.cookies import CookieJar

REQUEST = prepare("GET", "http://h/", None, None, keep_alive=True)


def cookies_sent(jar: CookieJar) -> list[bytes]:
    _, _, line = jar.added_to(REQUEST).wire.partition(b"\r\nCookie: ")
    return line.partition(b"\r\n")[0].split(b"; ") if line else []


def test_the_last_50_are_kept() -> None:
    jar = CookieJar()
    for number in range(70):
        jar.keep(b"c%d=%d; Path=/" % (number, number), 0)
    jar.keep(b"c20=again", 0)
    jar.keep(b"c30=; Max-Age=0", 0)
    kept = [*range(21, 30), *range(31, 70)]
    assert cookies_sent(jar) == [*(b"c%d=%d" % (number, number) for number in kept), b"c20=again"]
    jar.keep(b"new=1; Max-Age=0", 0)
    assert len(cookies_sent(jar)) == 49


def test_a_cookie_of_more_than_4096_bytes_is_none() -> None:
    jar = CookieJar()
    jar.keep(b"a=" + b"x" * 4094, 0)
    jar.keep(b"b=" + b"x" * 4095, 0)
    assert [each[:2] for each in cookies_sent(jar)] == [b"a="]
