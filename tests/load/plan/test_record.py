"""What a record says of a plan: no secret, and of what is long no more than tells it from another."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kabench.load import LoadPlan
from kabench.load.plan.targets import LoadTarget
from kabench.redaction import REDACTED, redacted_headers, redacted_url

SECRET = "hunter2"


def record_of(**given: Any) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(LoadPlan(**given).as_record()))
    return record


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "authorization",
        "Proxy-Authorization",
        "Cookie",
        "Set-Cookie",
        "X-Api-Key",
        "apikey",
        "X-Auth-Token",
        "X-Amz-Security-Token",
        "X-CSRF-Token",
        "X-Session-Id",
        "Private-Token",
        "X-Secret",
        "X-Password",
        "Ocp-Apim-Subscription-Key",
        "X-Functions-Key",
        "X-Master-Signature-256",
        "X-Pass",
        "X-JWT-Assertion",
        "X-CSRF",
    ],
)
def test_headers_that_are_secret_by_their_name_have_no_value(name: str) -> None:
    assert redacted_headers([(name, SECRET)]) == [[name, REDACTED]]
    record = record_of(url="http://h/", headers=((name, SECRET), ("X-Plain", "seen")))
    assert SECRET not in json.dumps(record)
    assert record["headers"] == [[name, REDACTED], ["X-Plain", "seen"]]


@pytest.mark.parametrize("name", ["Accept", "Content-Type", "User-Agent", "X-Request-Id", "If-None-Match", "Host"])
def test_other_headers_are_shown(name: str) -> None:
    assert redacted_headers([(name, "seen")]) == [[name, "seen"]]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:hunter2@h:8/p?a=b", f"http://{REDACTED}@h:8/p?a=b"),
        ("https://hunter2@h/", f"https://{REDACTED}@h/"),
        ("http://u:hun@ter2@h/", f"http://{REDACTED}@h/"),
        ("http://h/?token=hunter2&page=2", f"http://h/?token={REDACTED}&page=2"),
        ("http://h/?page=2&api_key=hunter2#end", f"http://h/?page=2&api_key={REDACTED}#end"),
        ("http://h/?access_token=hunter2", f"http://h/?access_token={REDACTED}"),
        ("http://h/?password=hunter2", f"http://h/?password={REDACTED}"),
        ("http://h/?key=hunter2", f"http://h/?key={REDACTED}"),
        ("http://h/?X-Amz-Signature=hunter2", f"http://h/?X-Amz-Signature={REDACTED}"),
        ("http://h/?sig=hunter2", f"http://h/?sig={REDACTED}"),
        ("http://h/?client_secret=hunter2==", f"http://h/?client_secret={REDACTED}"),
        ("http://h/?subscription-key=hunter2", f"http://h/?subscription-key={REDACTED}"),
        ("http://h/?PHPSESSID=hunter2&sid=hunter2", f"http://h/?PHPSESSID={REDACTED}&sid={REDACTED}"),
        ("http://h/?pass=hunter2&passphrase=hunter2", f"http://h/?pass={REDACTED}&passphrase={REDACTED}"),
        ("http://h/?AWSAccessKeyId=hunter2;otp=hunter2", f"http://h/?AWSAccessKeyId={REDACTED};otp={REDACTED}"),
        ("http://h/#access_token=hunter2", f"http://h/#access_token={REDACTED}"),
        ("http://h/?passenger=me&side=left&compass=n", "http://h/?passenger=me&side=left&compass=n"),
        ("http://h/?api%5Fkey=hunter2", f"http://h/?api%5Fkey={REDACTED}"),
        ("http://h/a@b?monkey=banana&design=1", "http://h/a@b?monkey=banana&design=1"),
        ("http://h/?at=me@h", "http://h/?at=me@h"),
        ("http://[::1]:8/p", "http://[::1]:8/p"),
    ],
)
def test_urls_are_shown_without_what_is_secret(url: str, shown: str) -> None:
    assert redacted_url(url) == shown
    assert record_of(url=url)["url"] == shown


def test_no_secret_of_any_target_is_in_the_record() -> None:
    targets = (
        LoadTarget(url=f"http://me:{SECRET}@h/?sig={SECRET}", headers=(("Authorization", SECRET), ("X-Plain", "seen"))),
        LoadTarget(url="http://h/", headers=(("Cookie", SECRET),), method="PUT", body=b"shown", weight=2),
    )
    record = record_of(targets=targets, headers=(("X-Api-Key", SECRET),), connect_to="127.0.0.1:1")
    assert SECRET not in json.dumps(record)
    first, second = record["targets"]
    assert first["headers"] == [["Authorization", REDACTED], ["X-Plain", "seen"]]
    assert (second["method"], second["body"], second["weight"]) == ("PUT", "shown", 2)


def test_a_short_body_is_shown_as_it_is() -> None:
    assert record_of(data=b"caf\xc3\xa9")["data"] == "café"
    assert record_of(data=b"\xff\x00")["data"] == "�\x00"


@pytest.mark.parametrize(
    "body",
    [
        '{"password":["hunter2", "x"]}',
        '{"padding":"' + "x" * 2020 + '","password":"hunter2-and-more-of-it"}',
        '{"padding":"' + "x" * 8160 + '","password":"hunter2-and-more-of-it"}',
        '{"password":"hunter2',
        "user=me&pass=hunter2",
    ],
    ids=["an array", "at the cut", "beyond the cut", "unfinished", "a form"],
)
def test_secrets_of_a_body_are_left_out_wherever_it_is_cut(body: str) -> None:
    shown = record_of(data=body.encode())["data"]
    assert SECRET not in shown
    assert len(shown) < 2200


def test_long_bodies_are_cut_and_still_told_apart() -> None:
    one, same, other, longer = (
        record_of(data=data)["data"]
        for data in (b"x" * 10**6, b"x" * 10**6, b"x" * (10**6 - 1) + b"y", b"x" * (10**6 + 1))
    )
    assert len(one) < 2200
    assert one.startswith("x" * 2048)
    assert "1000000 bytes" in one
    assert one == same
    assert len({one, other, longer}) == 3


def test_a_long_list_of_lines_is_cut_and_still_told_apart() -> None:
    lines = tuple(b"line %d" % number for number in range(10_000))
    one, same, other = (record_of(data_lines=given)["data_lines"] for given in (lines, lines, (*lines[:-1], b"else")))
    assert one[:20] == [f"line {number}" for number in range(20)]
    assert len(one) == 21
    assert "10000 in all" in one[20]
    assert one == same != other
    assert len(record_of(data_lines=lines[:20])["data_lines"]) == 20


def test_a_long_list_of_targets_is_cut_and_still_told_apart() -> None:
    targets = tuple(LoadTarget(url=f"http://h/{number}?token={SECRET}") for number in range(500))
    one, other = (record_of(targets=given)["targets"] for given in (targets, targets[::-1]))
    assert len(one) == 21
    assert SECRET not in json.dumps(one)
    assert one[20] != other[20]


def test_every_field_of_a_plan_is_in_its_record_whatever_was_given() -> None:
    for given in ({}, {"rate": 5.0}, {"url": "http://h/", "expect_body": b"\xff", "expect_status": (200,)}):
        assert set(record_of(**given)) == set(LoadPlan.__dataclass_fields__)
