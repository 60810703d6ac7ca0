from __future__ import annotations

import pytest

from kabench.agent.hints import KeepAliveHint, parse_keep_alive


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("timeout=5, max=100", KeepAliveHint(5.0, 100)),
        ("timeout=5", KeepAliveHint(5.0, None)),
        ("max=0", KeepAliveHint(None, 0)),
        ("TIMEOUT = 2 ; Max=7", KeepAliveHint(2.0, 7)),
        ('timeout="15"', KeepAliveHint(15.0, None)),
        ("max=3,timeout=0", KeepAliveHint(0.0, 3)),
    ],
)
def test_ak_30_and_ak_31_read_the_header(header: str, hint: KeepAliveHint) -> None:
    assert parse_keep_alive(header) == hint


@pytest.mark.parametrize(
    "header", ["", "timeout=soon", "timeout=-1", "timeout=5x", "timeout", "xtimeout=3", "max=", "٣=٣"]
)
def test_ak_30_text_that_is_no_number_is_ignored(header: str) -> None:
    assert parse_keep_alive(header) is None


@pytest.mark.parametrize(("timeout", "free_time"), [(10, 9), (2, 1), (1, 0.5), (0, 0), (0.5, 0.25)])
def test_ak_30_the_margin_is_a_second_or_half_the_timeout(timeout: float, free_time: float) -> None:
    assert KeepAliveHint(timeout_s=timeout).free_time_s == free_time
