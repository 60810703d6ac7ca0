from __future__ import annotations

import json
from typing import Any

import pytest

from kabench.server import ServerOptions
from kabench.server.answers import AnswerBook, Request, RequestReader, answer, as_one, with_requests_left

OPTIONS = ServerOptions(delay_s=0.005)


def request(path: str = "/", query: str = "", **given: Any) -> Request:
    fields: dict[str, Any] = {
        "method": "GET",
        "http_version": "1.1",
        "headers": (),
        "body": b"",
        "keep_alive": True,
    }
    return Request(path=path, query=query, **(fields | given))


@pytest.mark.parametrize(
    ("path", "milliseconds"),
    [("/", 5), ("/20", 20), ("/0", 0), ("/2.5", 2.5), ("/hello", 5), ("/20/x", 5), ("/1.2.3", 5), ("/.5", 0.5)],
)
def test_a_number_in_the_path_is_the_delay_in_milliseconds(path: str, milliseconds: float) -> None:
    made = answer(request(path), OPTIONS)
    assert made.delay_s == pytest.approx(milliseconds / 1000)
    assert json.loads(made.body)["timeout"] == milliseconds


def test_the_answer_echoes_the_request() -> None:
    made = answer(request(headers=(("X-A", "1"), ("Host", "h")), body=b"caf\xc3\xa9", method="POST"), OPTIONS)
    assert json.loads(made.body) == {"timeout": 5, "headers": {"x-a": "1", "host": "h"}, "size": 5, "data": "café"}
    assert made.request_body_bytes == 5


def test_a_size_is_the_size_of_the_body() -> None:
    made = as_one(answer(request(query="size=70000"), OPTIONS))
    assert len(made.body) == made.body_bytes == 70000
    assert b"Content-Length: 70000\r\n" in made.wire


def test_chunked_answers_are_chunked_but_not_for_http_1_0() -> None:
    made = as_one(answer(request(query="size=5000&chunked=1"), OPTIONS))
    assert b"Transfer-Encoding: chunked" in made.head
    assert b"Content-Length" not in made.head
    assert made.body.startswith(b"1000\r\nxxx")
    assert made.body.endswith(b"\r\n0\r\n\r\n")
    assert made.body_bytes == 5000
    old = answer(request(query="size=5000&chunked=1", http_version="1.0"), OPTIONS)
    assert b"Content-Length: 5000" in old.head


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body(status: int) -> None:
    made = answer(request(query=f"status={status}&size=10&chunked=1"), OPTIONS)
    assert made.head.startswith(b"HTTP/1.1 %d " % status)
    assert made.body == b""
    assert b"Content-Length" not in made.head


def test_head_has_the_head_of_get_and_no_body() -> None:
    head, get = (answer(request(query="size=10", method=method), OPTIONS) for method in ("HEAD", "GET"))
    assert (head.head, head.body, head.body_bytes) == (get.head, b"", 0)


@pytest.mark.parametrize(
    "query", ["size=-1", "size=x", "size=", "status=99", "status=100", "status=1000", "size=9999999999999"]
)
def test_a_query_that_makes_no_sense_is_a_400(query: str) -> None:
    made = answer(request(query=query), OPTIONS)
    assert made.is_bad_request
    assert made.head.startswith(b"HTTP/1.1 400 ")


def test_a_delay_of_more_than_an_hour_is_a_400() -> None:
    assert answer(request("/3600001"), OPTIONS).is_bad_request


@pytest.mark.parametrize(
    ("server", "client", "closes"), [(True, True, False), (True, False, True), (False, True, True)]
)
def test_the_socket_is_kept_if_both_sides_want_it(server: bool, client: bool, closes: bool) -> None:
    made = answer(request(keep_alive=client), ServerOptions(keep_alive=server, keep_alive_hint=3))
    assert made.closes is closes
    assert (b"Connection: close" in made.head) is closes
    assert (b"Keep-Alive: timeout=3" in made.head) is not closes


def test_the_last_answers_of_a_socket_count_down() -> None:
    made = answer(request(query="size=1"), ServerOptions(keep_alive_hint=3))
    assert b"\r\nKeep-Alive: timeout=3, max=2\r\n" in with_requests_left(made, 2, 3)
    assert b"\r\nKeep-Alive: max=2\r\n" in with_requests_left(made, 2, None)
    last = with_requests_left(made, 0, 3)
    assert b"Connection: close\r\n" in last
    assert b"keep-alive" not in last.lower().replace(b"connection: close", b"")
    assert last.endswith(b"\r\n\r\nx")


RAW = b"POST /7?size=3 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_requests_are_read_in_any_pieces(piece: int) -> None:
    reader = RequestReader(AnswerBook(OPTIONS))
    made = []
    for at in range(0, len(RAW), piece):
        made += reader.answers_to(RAW[at : at + piece])
    assert [(one.delay_s, one.body, one.request_body_bytes) for one in made] == [(0.007, b"xxx", 4)]
    assert reader.at_boundary


def test_only_a_whole_request_in_one_piece_is_remembered() -> None:
    book = AnswerBook(OPTIONS)
    reader = RequestReader(book)
    assert len(reader.answers_to(RAW + RAW)) == 2
    assert reader.answers_to(RAW[:10]) == []
    assert len(reader.answers_to(RAW[10:])) == 1
    assert book.answers == {}
    (made,) = reader.answers_to(RAW)
    assert book.answers == {RAW: made}


def test_the_memory_for_requests_is_bounded() -> None:
    book = AnswerBook(OPTIONS)
    reader = RequestReader(book)
    for number in range(1000):
        reader.answers_to(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
    assert len(book.answers) <= 256
    reader.answers_to(b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 10_000 + b"\r\n\r\n")
    assert max(len(raw) for raw in book.answers) < 10_000


def test_what_is_not_http_is_a_400_that_closes() -> None:
    (made,) = RequestReader(AnswerBook(OPTIONS)).answers_to(b"nonsense\r\n\r\n")
    assert made.is_bad_request
    assert made.closes


def test_the_absolute_form_of_a_target_is_understood() -> None:
    (made,) = RequestReader(AnswerBook(OPTIONS)).answers_to(b"GET http://h:1/9?size=2 HTTP/1.1\r\nHost: h:1\r\n\r\n")
    assert (made.delay_s, made.body) == (0.009, b"xx")
