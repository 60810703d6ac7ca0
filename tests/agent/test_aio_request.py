from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kabench.agent.aio.request import PreparedRequest, prepare
from kabench.agent.urls import parse_url

if TYPE_CHECKING:
    from kabench.agent.options import RetryStale


def wire(method: str = "GET", url: str = "http://h/", **given: Any) -> list[str]:
    given.setdefault("headers", None)
    given.setdefault("body", None)
    given.setdefault("keep_alive", True)
    return prepare(method, url, **given).wire.decode("latin-1").split("\r\n")


@pytest.mark.parametrize(
    ("url", "key", "path"),
    [
        ("http://example.test", "http://example.test:80", "/"),
        ("http://Example.TEST:8080/a/b?c=d#e", "http://example.test:8080", "/a/b?c=d"),
        ("http://[::1]:8080/x", "http://[::1]:8080", "/x"),
        ("http://h/a b/ü?q=ö x", "http://h:80", "/a%20b/%C3%BC?q=%C3%B6%20x"),
        ("http://h/%41?a[]=1&b=%20", "http://h:80", "/%41?a[]=1&b=%20"),
        ("http://bücher.test/", "http://xn--bcher-kva.test:80", "/"),
    ],
)
def test_a_url_is_an_origin_and_a_path(url: str, key: str, path: str) -> None:
    target = parse_url(url)
    assert (target.origin.key, target.path) == (key, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "/x",
        "ftp://h/",
        "http://",
        "http:///x",
        "http://h:x/",
        "http://h:0/",
        "http://h:99999/",
        "http://[::1/",
    ],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"http|URL|host|port"):
        parse_url(url)


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\nX: y"])
def test_ak_45_cr_lf_and_nul_are_refused(bad: str) -> None:
    for given in (
        {"url": f"http://h/{bad}"},
        {"url": f"http://h{bad}/"},
        {"headers": {"X": f"a{bad}b"}},
        {"headers": {f"X{bad}": "a"}},
        {"method": f"GET{bad}"},
    ):
        with pytest.raises(ValueError):  # noqa: PT011  # each says it in its own words
            wire(**given)


def test_the_agent_s_headers_are_there_unless_given() -> None:
    assert wire() == ["GET / HTTP/1.1", "Host: h", "Connection: keep-alive", "", ""]
    assert [line for line in wire(headers={"host": "other"}) if line.lower().startswith("host")] == ["host: other"]
    assert wire(keep_alive=False)[2] == "Connection: close"


def test_connection_close_of_a_plain_agent_wins() -> None:
    lines = wire(keep_alive=False, headers={"Connection": "keep-alive"})
    assert [line for line in lines if line.startswith("Connection")] == ["Connection: close"]


@pytest.mark.parametrize(("method", "length"), [("POST", "0"), ("PUT", "0"), ("GET", None), ("DELETE", None)])
def test_content_length_of_no_body(method: str, length: str | None) -> None:
    lengths = [line.partition(": ")[2] for line in wire(method) if line.startswith("Content-Length")]
    assert lengths == ([] if length is None else [length])


def test_a_content_length_that_is_not_the_body_s_is_refused() -> None:
    assert wire("POST", headers={"Content-Length": "3"}, body=b"abc")[-1] == "abc"
    with pytest.raises(ValueError, match="Content-Length"):
        wire("POST", headers={"Content-Length": "4"}, body=b"abc")
    with pytest.raises(ValueError, match="Transfer-Encoding"):
        wire("POST", headers={"Transfer-Encoding": "chunked"}, body=b"abc")
    with pytest.raises(TypeError, match="bytes"):
        wire("POST", body="abc")


def test_credentials_in_a_url_become_a_header_and_stay_out_of_the_target() -> None:
    lines = wire(url="http://user:p%40ss@h/x")
    assert lines[0] == "GET /x HTTP/1.1"
    assert "Authorization: Basic dXNlcjpwQHNz" in lines
    assert "user" not in repr(prepare("GET", "http://user:pw@h/", None, None, keep_alive=True))


@pytest.mark.parametrize(
    ("methods", "retry_stale", "repeatable"),
    [
        ("GET HEAD OPTIONS TRACE get", "safe", True),
        ("PUT DELETE POST PATCH BREW", "safe", False),
        ("GET HEAD OPTIONS TRACE PUT DELETE put", "idempotent", True),
        ("POST PATCH BREW", "idempotent", False),
        ("GET HEAD OPTIONS TRACE PUT DELETE", False, False),
    ],
)
def test_ak_34_what_may_be_sent_again_is_said_by_its_method(
    methods: str, retry_stale: RetryStale, repeatable: bool
) -> None:
    for method in methods.split():
        prepared = prepare(method, "http://h/", None, None, keep_alive=True, retry_stale=retry_stale)
        assert prepared.repeatable is repeatable, method


@pytest.mark.parametrize("name", ["Idempotency-Key", "idempotency-key", "X-Idempotency-Key"])
def test_ak_34_a_request_with_an_idempotency_key_may_be_sent_again_whatever_its_method(name: str) -> None:
    def prepared(retry_stale: RetryStale) -> PreparedRequest:
        return prepare("POST", "http://h/", {name: "1"}, b"x", keep_alive=True, retry_stale=retry_stale)

    assert [prepared(value).repeatable for value in ("safe", "idempotent", False)] == [True, True, False]


@pytest.mark.parametrize("method", ["get", "head", "post", "put", "patch", "delete", "options", "trace"])
def test_ak_57_a_standard_method_goes_out_in_capitals(method: str) -> None:
    prepared = prepare(method, "http://h/", None, None, keep_alive=True)
    assert prepared.wire.startswith(f"{method.upper()} / ".encode())
    assert prepared.is_head is (method == "head")


@pytest.mark.parametrize("method", ["brew", "Purge", "mkcol"])
def test_ak_57_another_method_goes_out_untouched(method: str) -> None:
    assert prepare(method, "http://h/", None, None, keep_alive=True).wire.startswith(f"{method} / ".encode())


def test_connect_is_refused() -> None:
    with pytest.raises(ValueError, match="tunnel"):
        wire("CONNECT")
