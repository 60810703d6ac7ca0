"""Lists of requests, from files and from code: what a line means, what is wrong with it, and which is sent when."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest

from kabench.load import LoadPlan, PlanError
from kabench.load.plan.share import Share
from kabench.load.plan.source import RequestSource
from kabench.load.plan.targets import LoadTarget, read_requests, read_urls

# -- files of URLs


def test_urls_one_a_line_with_comments_and_weights() -> None:
    lines = ["# where to", "", "http://h/a", "  3 http://h/b  ", "0.5\thttp://h/c", "   ", "  # no more"]
    assert read_urls(lines) == (
        LoadTarget(url="http://h/a"),
        LoadTarget(url="http://h/b", weight=3),
        LoadTarget(url="http://h/c", weight=0.5),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nowhere", "nowhere"),
        ("ftp://h/", "is no http URL"),
        ("x http://h/", "'x'"),
        ("0 http://h/", "its weight 0 is not above 0"),
        ("-1 http://h/", "its weight -1 is not above 0"),
        ("nan http://h/", "its weight nan is not above 0"),
        ("inf http://h/", "its weight inf is not above 0"),
        ("1 2 http://h/", "is more than a weight and a URL"),
        ("http://h/ 3", "3"),
    ],
)
def test_a_line_that_is_wrong_is_named(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^line 3: ") as caught:
        read_urls(["http://h/", "", line])
    assert says in str(caught.value)


@pytest.mark.parametrize("lines", [[], ["", "# nothing"]])
def test_a_file_without_a_request_is_refused(lines: list[str]) -> None:
    for read in (read_urls, read_requests):
        with pytest.raises(ValueError, match="there is no request in it"):
            read(lines)


def test_placeholders_with_blanks_may_stand_in_a_file_too() -> None:
    """`{{ counter }}` is what `{{counter}}` is."""
    (target,) = read_requests(['{"url": "http://h/{{ counter }}"}'])
    LoadPlan(targets=(target,), templates=True)
    (target,) = read_urls(["http://h/{{ counter }}"])
    LoadPlan(targets=(target,), templates=True)


# -- files of requests


def test_requests_are_json_lines() -> None:
    lines = [
        "# a comment",
        '{"url": "http://h/a"}',
        "",
        '{"url": "http://h/b", "method": "put", "headers": {"X-A": "1", "X-B": "2"}, "body": "t\\u00e9xt", "weight":2}',
        '{"url": "http://h/c", "body": {"id": [1, 2,  null]}}',
        '{"url": "http://h/d", "method": null, "body": null}',
        '{"url": "http://h/e", "method": "GET", "body": 5}',
        '{"url": "http://h/f", "body": ""}',
    ]
    assert read_requests(lines) == (
        LoadTarget(url="http://h/a"),
        LoadTarget(
            url="http://h/b", method="PUT", headers=(("X-A", "1"), ("X-B", "2")), body="téxt".encode(), weight=2
        ),
        LoadTarget(url="http://h/c", method="POST", body=b'{"id": [1, 2,  null]}'),
        LoadTarget(url="http://h/d"),
        LoadTarget(url="http://h/e", method="GET", body=b"5"),
        LoadTarget(url="http://h/f", method="POST", body=b""),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nothing", "malformed"),
        ('{"url": "http://h/"', "truncated"),
        ("[]", "Expected `object`"),
        ("{}", "missing required field `url`"),
        ('{"url": 5}', "Expected `str`"),
        ('{"url": "http://h/", "methud": "GET"}', "unknown field `methud`"),
        ('{"url": "http://h/", "headers": {"X": 1}}', "$.headers"),
        ('{"url": "http://h/", "headers": {"X Y": "1"}}', "is no header name"),
        ('{"url": "http://h/", "headers": {"X": "a\\r\\nb"}}', "X"),
        ('{"url": "http://h/", "method": "G T"}', "is no HTTP method"),
        ('{"url": "nowhere"}', "is no http URL"),
        ('{"url": "http://h/", "weight": 0}', "is not above 0"),
        ('{"url": "http://h/", "weight": "2"}', "Expected `float`"),
    ],
)
def test_a_request_that_is_wrong_is_named_by_its_line(line: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^line 2: ") as caught:
        read_requests(['{"url": "http://h/"}', line])
    assert says in str(caught.value)


# -- which is sent


def urls(number: int, share: Share | None = None, **given: Any) -> list[str]:
    plan = LoadPlan(**given)
    return [request.url for request, _ in itertools.islice(iter(RequestSource(plan, "", share or Share())), number)]


ABC = tuple(LoadTarget(url=f"http://h/{name}") for name in "abc")


def test_several_are_sent_in_turn() -> None:
    assert urls(7, targets=ABC) == [f"http://h/{name}" for name in "abcabca"]


def test_in_turn_holds_for_all_workers_together() -> None:
    shared = [urls(6, Share(index, 2), targets=ABC) for index in range(2)]
    assert [shared[number % 2][number // 2] for number in range(12)] == [f"http://h/{name}" for name in "abc" * 4]


def are_as_likely(counts: Counter[str], weights: dict[str, float]) -> None:
    """Each is sent as often as its weight says, within five standard deviations."""
    number = counts.total()
    for name, weight in weights.items():
        share = weight / sum(weights.values())
        assert counts[f"http://h/{name}"] == pytest.approx(
            number * share, abs=5 * math.sqrt(number * share * (1 - share))
        )


def test_at_random_each_is_as_likely_and_the_order_is_none() -> None:
    seen = urls(9000, targets=ABC, order="random")
    are_as_likely(Counter(seen), {"a": 1, "b": 1, "c": 1})
    assert seen[:30] != urls(30, targets=ABC)
    assert len(Counter(itertools.pairwise(seen))) == 9


@pytest.mark.parametrize("workers", [1, 3])
def test_weights_are_how_often_each_is_sent(workers: int) -> None:
    targets = tuple(LoadTarget(url=f"http://h/{name}", weight=w) for name, w in (("a", 1), ("b", 2), ("c", 7)))
    seen: Counter[str] = Counter()
    for index in range(workers):
        seen.update(urls(9000 // workers, Share(index, workers), targets=targets, workers=workers))
    are_as_likely(seen, {"a": 1, "b": 2, "c": 7})


def test_the_seed_decides_what_is_random() -> None:
    first, again, other = (urls(50, targets=ABC, order="random", seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"url": "http://h/", "targets": ABC}, "url and targets: give only one"),
        ({"targets": (*ABC, LoadTarget(url="http://h/", weight=2)), "order": "turn"}, "targets with weights"),
        ({"targets": ABC, "order": "sorted"}, "'sorted' is neither turn nor random"),
        ({"targets": (LoadTarget(url="http://h/", body=b"x"),), "data_lines": (b"y",)}, "have a body of their own"),
        ({"targets": (LoadTarget(url="nowhere"),)}, "is no http URL"),
        ({"targets": (LoadTarget(url="http://h/", method="G T"),)}, "method"),
        ({"targets": (LoadTarget(url="http://h/", weight=-1),)}, "is not above 0"),
        ({"targets": ABC, "insecure": True}, "are for https URLs"),
        ({"targets": ABC, "tls": True}, "begin the URL with https:"),
    ],
)
def test_targets_that_make_no_sense_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        LoadPlan(**given)


def test_what_a_target_leaves_open_is_as_the_plan_says() -> None:
    plan = LoadPlan(
        targets=(
            LoadTarget(url="http://h/"),
            LoadTarget(url="http://h/", method="PUT", body=b"own", headers=(("B", "2"),)),
        ),
        method="PATCH",
        data=b"all",
        headers=(("A", "1"),),
    )
    first, second = plan.targets_for("")
    assert (first.method, first.body, first.headers) == ("PATCH", b"all", (("A", "1"),))
    assert (second.method, second.body, second.headers) == ("PUT", b"own", (("A", "1"), ("B", "2")))
