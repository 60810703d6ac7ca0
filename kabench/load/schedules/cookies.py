"""The cookies that one user keeps: RFC 6265 by origin, without paths and domains.

That is enough for a session, and a cookie costs one search in the bytes of a prepared request.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kabench.agent.aio import PreparedRequest, ResponseHead

_HEAD_END = b"\r\n\r\n"
_MOST_COOKIES = 50
_LONGEST_COOKIE_BYTES = 4096
"""What any client should keep at least (RFC 6265 section 6.1). This one keeps no more, so requests cannot grow on."""

_COOKIE_LINE = re.compile(rb"\r\nCookie: *([^\r\n]*)", re.IGNORECASE)


class CookieJar:
    """Cookies of one origin, by name. A cookie is what stands before the first semicolon (RFC 6265 section 5.2)."""

    def __init__(self) -> None:
        self._cookies: dict[bytes, bytes] = {}

    def keep(self, set_cookie: bytes, now_s: float) -> None:
        """Take the value of a Set-Cookie header. `now_s` is the time since the epoch, for cookies that expire."""
        pair, *attributes = set_cookie.split(b";")
        name, equals, value = pair.strip().partition(b"=")
        if not equals or not name.strip() or len(pair) > _LONGEST_COOKIE_BYTES:
            return
        self._cookies.pop(name.strip(), None)
        if _is_over([attribute.strip().partition(b"=")[::2] for attribute in attributes], now_s):
            return
        if len(self._cookies) >= _MOST_COOKIES:
            del self._cookies[next(iter(self._cookies))]  # the oldest
        self._cookies[name.strip()] = value.strip()

    def added_to(self, prepared: PreparedRequest) -> PreparedRequest:
        """Return the request with these cookies behind its own, in one header (RFC 6265 section 5.4)."""
        if not self._cookies:
            return prepared
        own = b"; ".join(b"%s=%s" % cookie for cookie in self._cookies.items())
        head, end, body = prepared.wire.partition(_HEAD_END)
        given = _COOKIE_LINE.search(head)
        if given is None:
            head += b"\r\nCookie: " + own
        else:
            head = b"%s; %s%s" % (head[: given.end()], own, head[given.end() :])
        return prepared.with_wire(head + end + body)


class Cookies:
    """One user's cookies, a jar for each origin."""

    def __init__(self) -> None:
        self._jars: defaultdict[str, CookieJar] = defaultdict(CookieJar)

    def added_to(self, prepared: PreparedRequest) -> PreparedRequest:
        """Return the request with the cookies of its origin."""
        return self._jars[prepared.origin_key].added_to(prepared)

    def keep_those_of(self, head: ResponseHead, origin_key: str, now_s: float) -> None:
        """Keep the cookies that a response sets. `now_s` is the time since the epoch."""
        for name, value in head.raw_headers:
            if name.lower() == b"set-cookie":
                self._jars[origin_key].keep(value, now_s)


def _is_over(attributes: list[tuple[bytes, bytes]], now_s: float) -> bool:
    """Return whether a cookie has expired. Max-Age comes before Expires (RFC 6265 section 5.3)."""
    by_name = {name.strip().lower(): value.strip() for name, value in attributes}
    try:
        if b"max-age" in by_name:
            return int(by_name[b"max-age"]) <= 0
        if b"expires" in by_name:
            from email.utils import parsedate_to_datetime  # takes a while, and few cookies say so

            return parsedate_to_datetime(by_name[b"expires"].decode("latin-1")).timestamp() <= now_s
    except (ValueError, OverflowError):
        return False
    return False
