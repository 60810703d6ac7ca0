"""Where requests go, and which headers stay behind."""

from __future__ import annotations

import pytest

from kabench.agent import ConnectError, QueueTimeoutError, ResponseParseError, SocketTimeoutError
from kabench.agent.reader import ResponseReader
from kabench.http1.requests import RefusedRequestError, RequestHead
from kabench.proxy.rules import Route, headers_for_the_target, own_answer, response_head, route, status_for, via_of
from kabench.published import PUBLISHED_BODY

VIA = via_of("a1")
OWN = frozenset({"127.0.0.1:1985", "target.internal"})


def request(target: str, method: str = "GET", *headers: tuple[str, str]) -> RequestHead:
    return RequestHead(method, target, "1.1", headers, keep_alive=True, body_length=0, expects_continue=False)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/", Route("normal", "GET", "/")),
        ("/5", Route("normal", "GET", "/5")),
        ("/k/5", Route("keepalive", "GET", "/5")),
        ("/k", Route("keepalive", "GET", "/")),
        ("/k/", Route("keepalive", "GET", "/")),
        ("/k?a=b", Route("keepalive", "GET", "/?a=b")),
        ("/k/k/5", Route("keepalive", "GET", "/k/5")),
        ("/kangaroo", Route("normal", "GET", "/kangaroo")),
        ("/post/k/5", Route("keepalive", "POST", "/5", PUBLISHED_BODY)),
        ("/post/5?a=/k/", Route("normal", "POST", "/5?a=/k/", PUBLISHED_BODY)),
        ("/post", Route("normal", "POST", "/", PUBLISHED_BODY)),
        ("/poster/5", Route("normal", "GET", "/poster/5")),
        ("/k/post/5", Route("keepalive", "GET", "/post/5")),
        ("//evil.example/x", Route("normal", "GET", "//evil.example/x")),
        ("/k//evil.example/x", Route("keepalive", "GET", "//evil.example/x")),
        ("/a%20b/\xe9", Route("normal", "GET", "/a%20b/%E9")),
        ("http://127.0.0.1:1985/k/5?q", Route("keepalive", "GET", "/5?q")),
        ("HTTP://Target.internal/5", Route("normal", "GET", "/5")),
    ],
)
def test_paths_choose_the_agent(target: str, expected: Route) -> None:
    assert route(request(target), OWN, VIA) == expected


def test_a_post_stays_what_it_is() -> None:
    assert route(request("/post/k/5", "PUT"), OWN, VIA) == Route("keepalive", "PUT", "/5")
    assert route(request("/post/5", "POST"), OWN, VIA) == Route("normal", "POST", "/5")


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("http://evil.example/", "GET", 403),
        ("http://127.0.0.1:1985@evil.example/", "GET", 403),
        ("http://evil.example#@127.0.0.1:1985/", "GET", 403),
        ("https://127.0.0.1:9999/", "GET", 403),
        ("ftp://127.0.0.1:1985/", "GET", 403),
        ("http://[::1/", "GET", 403),
        ("*", "OPTIONS", 403),
        ("evil.example:443", "CONNECT", 405),
    ],
)
def test_nothing_leads_anywhere_else(target: str, method: str, status: int) -> None:
    with pytest.raises(RefusedRequestError) as caught:
        route(request(target, method), OWN, VIA)
    assert caught.value.status == status


def test_a_target_that_leads_back_is_noticed() -> None:
    with pytest.raises(RefusedRequestError, match="leads back") as caught:
        route(request("/", "GET", ("via", "1.0 other, 1.1 kabench-a1")), OWN, VIA)
    assert caught.value.status == 508
    assert route(request("/", "GET", ("Via", "1.1 kabench-b2")), OWN, VIA) == Route("normal", "GET", "/")


def test_headers_of_this_hop_stay_behind() -> None:
    head = request(
        "/",
        "GET",
        ("Host", "127.0.0.1:1985"),
        ("Accept", "*/*"),
        ("Connection", "close, X-Secret"),
        ("connection", "x-other"),
        ("X-Secret", "1"),
        ("X-Other", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic c2VjcmV0"),
        ("TE", "trailers"),
        ("Trailer", "X-Sum"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "5"),
        ("Upgrade", "websocket"),
        ("Expect", "100-continue"),
        ("Authorization", "Bearer t"),
        ("Cookie", "a=b"),
    )
    kept = [("Accept", "*/*"), ("Authorization", "Bearer t"), ("Cookie", "a=b"), ("Via", "1.1 kabench-a1")]
    assert headers_for_the_target(head, VIA) == kept


def test_headers_of_the_other_hop_stay_behind() -> None:
    reader = ResponseReader()
    reader.begin(is_head_request=False)
    reader.feed(
        b"HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\n"
        b"Keep-Alive: timeout=5\r\n"
        b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n\r\nok"
    )
    assert reader.head is not None
    kept = b"HTTP/1.1 200 Fine\r\nServer: s\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 2\r\n"
    assert response_head(reader.head, None, keep_alive=True, is_http_1_1=True) == kept + b"\r\n"
    last = response_head(reader.head, None, keep_alive=False, is_http_1_1=True)
    assert last == kept + b"Connection: close\r\n\r\n"
    old = response_head(reader.head, None, keep_alive=True, is_http_1_1=False)
    assert old == kept + b"Connection: keep-alive\r\n\r\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConnectError("nobody\r\nis there"), 502),
        (ResponseParseError("not HTTP"), 502),
        (SocketTimeoutError("no byte", 5.0, reused_socket=False), 504),
        (QueueTimeoutError("no socket", 1.0), 504),
        (RuntimeError("secret of the implementation"), 502),
    ],
)
def test_errors_are_502_or_504_with_a_reason_in_a_line(error: Exception, status: int) -> None:
    found, why = status_for(error)
    assert found == status
    assert why
    assert "\n" not in why
    assert "secret" not in why


def test_an_answer_of_the_proxy_s_own_is_no_page() -> None:
    answer = own_answer(502, "<script>alert(1)</script>", "text/plain; charset=utf-8", keep_alive=True, is_head=False)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n" in head
    assert body == b"<script>alert(1)</script>\n"
    assert own_answer(502, "x", "text/plain", keep_alive=True, is_head=True).endswith(b"\r\n\r\n")
