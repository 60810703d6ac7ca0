"""Placeholders in URLs and bodies: what they become, where they may stand, and that the bytes around them are right."""

from __future__ import annotations

import itertools
import json
import random
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kabench.agent.aio.request import prepare
from kabench.load import LoadPlan, PlanError
from kabench.load.plan.pacing import Stage
from kabench.load.plan.share import Share
from kabench.load.plan.source import PreparedSource, Request, RequestSource
from kabench.load.plan.targets import LoadTarget
from kabench.load.plan.templates import Template, TemplateError, check_placeholders, without_placeholders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kabench.agent.aio import PreparedRequest


def prepare_(method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> PreparedRequest:
    return prepare(method, url, headers, body, keep_alive=True)


def _with_url(given: dict[str, Any]) -> dict[str, Any]:
    return {"templates": True} | ({} if "targets" in given else {"url": "http://h/"}) | given


def source_of(share: Share | None = None, **given: Any) -> PreparedSource:
    plan = LoadPlan(**_with_url(given))
    return PreparedSource(plan, "", share or Share(), prepare_)


def wires(number: int, share: Share | None = None, **given: Any) -> list[bytes]:
    """The bytes of the first requests of a worker."""
    source = source_of(share, **given)
    return [source.next()[0].wire for _ in range(number)]


def requests_of(number: int, share: Share | None = None, **given: Any) -> list[Request]:
    plan = LoadPlan(**_with_url(given))
    return [request for request, _ in itertools.islice(iter(RequestSource(plan, "", share or Share())), number)]


def taken_apart(wire: bytes) -> tuple[str, dict[str, list[str]], bytes]:
    """The request target, the headers and the body of a request. The body must be as long as it says."""
    head, end, body = wire.partition(b"\r\n\r\n")
    assert end
    request_line, *lines = head.decode().split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        assert colon
        headers.setdefault(name.lower(), []).append(value)
    _, target, version = request_line.split(" ")
    assert version == "HTTP/1.1"
    if "content-length" in headers:
        assert headers["content-length"] == [str(len(body))]
    else:
        assert body == b""
    return target, headers, body


# -- one template


def test_a_counter_is_the_number_of_the_request_wherever_it_stands() -> None:
    template = Template.of(b"{{counter}}-{{ counter }}-{{counter}}", random.Random(1))
    assert [template.fill(number) for number in (0, 7, 10**9)] == [
        b"0-0-0",
        b"7-7-7",
        b"1000000000-1000000000-1000000000",
    ]


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_random_number_is_between_its_bounds(one: int, other: int) -> None:
    low, high = sorted((one, other))
    template = Template.of(b"{{random:%d-%d}}" % (low, high), random.Random(1))
    values = [int(template.fill(0)) for _ in range(20)]
    assert low <= min(values) <= max(values) <= high


def test_a_random_number_takes_both_its_bounds_and_all_between() -> None:
    template = Template.of(b"{{random:3-6}}", random.Random(1))
    assert {template.fill(0) for _ in range(200)} == {b"3", b"4", b"5", b"6"}
    assert Template.of(b"{{random:5-5}}", random.Random(1)).fill(0) == b"5"


def test_a_random_number_without_bounds_has_nine_digits_at_most() -> None:
    template = Template.of(b"{{random}}", random.Random(1))
    values = [int(template.fill(0)) for _ in range(1000)]
    assert max(values) <= 999_999_999
    assert len(set(values)) > 990


def test_a_uuid_is_a_random_one_and_never_the_same() -> None:
    template = Template.of(b"{{uuid}} {{uuid}}", random.Random(1))
    given = [part.decode() for _ in range(500) for part in template.fill(0).split()]
    assert len(set(given)) == 1000
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant) for text in given} == {(4, uuid.RFC_4122)}
    assert all(str(uuid.UUID(text)) == text for text in given)


@given(st.binary(max_size=60).filter(lambda text: b"{{" not in text))
def test_text_without_placeholders_is_itself(text: bytes) -> None:
    template = Template.of(text, random.Random(1))
    assert template.is_constant
    assert template.fill(5) == text


def test_json_is_no_placeholder() -> None:
    text = json.dumps({"a": {"b": {"c": [{}, {"d": 1}]}}}).encode()
    check_placeholders(text)
    assert Template.of(text, random.Random(1)).fill(0) == text


@pytest.mark.parametrize(
    "wrong",
    [
        "{{count}}",
        "{{}}",
        "{{random:1}}",
        "{{random:1-}}",
        "{{random:-1-5}}",
        "{{random:a-b}}",
        "{{COUNTER}}",
        "{{x y}}",
        "{{uuid4}}",
        "{{counter+1}}",
        "{{random:1-9999999999999999999}}",
        "{{__import__('os')}}",
    ],
)
def test_what_is_no_placeholder_is_refused_and_the_others_are_named(wrong: str) -> None:
    with pytest.raises(TemplateError, match=r"is no placeholder; there are \{\{counter\}\}, \{\{random\}\}"):
        check_placeholders(f"before {wrong} after".encode())
    with pytest.raises(PlanError, match="is no placeholder"):
        LoadPlan(url=f"http://h/?q={wrong}", templates=True)
    with pytest.raises(PlanError, match="is no placeholder"):
        LoadPlan(url="http://h/", data=wrong.encode(), templates=True)


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(TemplateError, match="9 is above 1"):
        check_placeholders(b"{{random:9-1}}")


@pytest.mark.parametrize(
    "url", ["http://{{counter}}/", "http://h:{{random}}/", "{{uuid}}://h/", "http://{{uuid}}@h/", "http://h{{counter}}"]
)
def test_a_placeholder_before_the_path_is_refused(url: str) -> None:
    with pytest.raises(TemplateError, match="may stand only in the path or the query"):
        without_placeholders(url)
    with pytest.raises(PlanError, match="may stand only in the path or the query"):
        LoadPlan(url=url, templates=True)


def test_without_templates_braces_are_what_they_are() -> None:
    (wire,) = wires(1, templates=False, data=b"{{counter}}{{nothing}}")
    assert taken_apart(wire)[2] == b"{{counter}}{{nothing}}"


# -- whole requests


@given(
    st.lists(
        st.sampled_from(["{{counter}}", "{{random}}", "{{random:1-99999}}", "{{uuid}}", "é", " ", "}}", "{"]),
        max_size=6,
    ),
    st.integers(0, 3),
)
def test_the_length_is_right_whatever_is_filled_in(pieces: list[str], start: int) -> None:
    body = "x".join(pieces).replace("{x{", "{")
    for wire in wires(12, Share(start, 4), data=body.encode(), url="http://h/{{counter}}"):
        _, headers, filled = taken_apart(wire)
        assert "content-length" in headers
        assert b"{{" not in filled


def test_a_url_is_filled_in_in_its_path_and_query() -> None:
    first, second = (
        taken_apart(wire) for wire in wires(2, url="http://h/a/{{counter}}/b?c={{counter}}&d={{random:7-7}}")
    )
    assert first[0] == "/a/0/b?c=0&d=7"
    assert second[0] == "/a/1/b?c=1&d=7"
    assert first[1]["host"] == ["h"]


def test_what_else_a_url_needs_encoded_is_encoded() -> None:
    (wire,) = wires(1, url="http://h/é?a=b c&n={{counter}}")
    assert taken_apart(wire)[0] == "/%C3%A9?a=b%20c&n=0"


def test_a_placeholder_behind_the_hash_is_never_sent_and_does_no_harm() -> None:
    assert [taken_apart(wire)[0] for wire in wires(2, url="http://h/a?b=c#{{counter}}")] == ["/a?b=c"] * 2


def test_a_get_without_a_body_has_no_length() -> None:
    for wire in wires(3, url="http://h/{{counter}}", method="GET", data=b""):
        _, headers, body = taken_apart(wire)
        assert "content-length" not in headers
        assert body == b""


def test_a_post_with_a_url_of_placeholders_and_no_body_says_that_it_has_none() -> None:
    for wire in wires(3, url="http://h/{{counter}}", method="POST", data=b""):
        assert taken_apart(wire)[1]["content-length"] == ["0"]


def test_headers_that_look_like_a_length_stay_as_they_are() -> None:
    headers = (("X-Content-Length", "18"),)
    for wire in wires(3, headers=headers, data=b"{{counter}} and so on, longer than it was"):
        _, seen, body = taken_apart(wire)
        assert seen["x-content-length"] == ["18"]
        assert seen["content-length"] == [str(len(body))]


@pytest.mark.parametrize("workers", [1, 3, 4])
def test_no_two_requests_of_a_run_have_the_same_number(workers: int) -> None:
    given = {"url": "http://h/{{counter}}", "data": b"{{counter}}"}
    seen = []
    for index in range(workers):
        for wire in wires(20, Share(index, workers), **given):
            target, _, body = taken_apart(wire)
            assert target == f"/{body.decode()}"
            seen.append(int(body))
    assert sorted(seen) == list(range(20 * workers))


def test_workers_do_not_draw_the_same_random_values() -> None:
    one, other = (wires(20, Share(index, 2), data=b"{{uuid}}") for index in range(2))
    assert not {taken_apart(wire)[2] for wire in one} & {taken_apart(wire)[2] for wire in other}
    assert wires(20, data=b"{{uuid}}", seed=5) == wires(20, data=b"{{uuid}}", seed=5)


def test_clients_that_encode_by_themselves_get_the_same_requests() -> None:
    given: dict[str, Any] = {
        "targets": (
            LoadTarget(url="http://h/{{counter}}?{{random}}"),
            LoadTarget(url="http://h/{{uuid}}", body=b"own"),
        ),
        "data": b"{{counter}}-{{random:1-5}}",
    }
    for wire, request in zip(wires(30, Share(1, 3), **given), requests_of(30, Share(1, 3), **given), strict=True):
        target, _, body = taken_apart(wire)
        assert (request.url.removeprefix("http://h"), request.body) == (target, body)


def test_one_request_that_never_changes_is_encoded_once() -> None:
    source = source_of(templates=True, data=b"no placeholder")
    assert source.only is not None
    assert source_of(data=b"{{counter}}").only is None
    assert source_of(data_lines=(b"a", b"b")).only is None


def test_forms_are_made_when_they_are_first_sent() -> None:
    made: list[bytes | None] = []

    def noting(method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes | None) -> PreparedRequest:
        made.append(body)
        return prepare_(method, url, headers, body)

    plan = LoadPlan(url="http://h/", data_lines=tuple(b"line %d" % number for number in range(10_000)))
    source = PreparedSource(plan, "", Share(), noting)
    assert len(made) <= 1
    first_round = [source.next()[0] for _ in range(5)]
    assert made == [b"line %d" % number for number in range(5)]
    assert [taken_apart(request.wire)[2] for request in first_round] == made


@pytest.mark.parametrize("stages", [(), (Stage(1, 5),)])
def test_templates_go_with_every_kind_of_load(stages: tuple[Stage, ...]) -> None:
    LoadPlan(url="http://h/{{uuid}}", templates=True, stages=stages)


def test_a_mark_is_left_nowhere() -> None:
    for wire in wires(5, url="http://h/{{counter}}?{{uuid}}", data=b"{{random}}"):
        assert not re.search(rb"x[0-9a-f]{16}x", wire)
