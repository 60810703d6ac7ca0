from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from kabench.agent import AgentOptions, AsyncKeepAliveAgent, AsyncPlainAgent
from kabench.agent.options import parse_duration


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (4, 4.0),
        (0.25, 0.25),
        ("4s", 4.0),
        ("250ms", 0.25),
        ("1.5m", 90.0),
        ("2h", 7200.0),
        ("7", 7.0),
        (".5s", 0.5),
        (timedelta(milliseconds=30), 0.03),
        (0, 0.0),
    ],
)
def test_durations_become_seconds(given: object, seconds: float) -> None:
    assert parse_duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given", ["", "5x", "-5s", "5 s 3", "s", "1e3", "٣s", -1, float("nan"), float("inf"), timedelta(-1)]
)
def test_what_is_no_duration_is_a_value_error(given: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(given)


@pytest.mark.parametrize("given", [None, True, b"5s", [5]])
def test_what_has_no_duration_s_type_is_a_type_error(given: object) -> None:
    with pytest.raises(TypeError, match="duration"):
        parse_duration(given)


def test_the_defaults_are_agentkeepalives() -> None:
    options = AgentOptions()
    assert (options.free_socket_timeout, options.activity_timeout, options.keep_alive_delay) == (4.0, 8.0, 1.0)
    assert (options.max_sockets, options.max_free_sockets, options.max_total_sockets) == (None, 256, None)
    assert (options.scheduling, options.keep_alive, options.no_delay) == ("lifo", True, True)


@pytest.mark.parametrize(("free", "timeout"), [(1, 8.0), (4, 8.0), (30, 60.0), (0, 8.0)])
def test_the_timeout_is_twice_the_free_time_and_at_least_8_s(free: float, timeout: float) -> None:
    options = AgentOptions(free_socket_timeout=free)
    assert (options.timeout, options.activity_timeout, options.effective_connect_timeout) == (None, timeout, timeout)


def test_a_given_timeout_stands_and_survives_replace() -> None:
    options = AgentOptions(timeout="90s")
    assert dataclasses.replace(options, keep_alive=False).timeout == 90.0
    assert AgentOptions(timeout=0).activity_timeout == 0.0


def test_ak_10_in_place_of_a_library_what_was_not_given_is_no_limit_and_a_silent_peer_is_noticed_all_the_same() -> None:
    options = AgentOptions(max_sockets=3).in_place_of_a_library()
    assert (options.timeout, options.effective_connect_timeout, options.tcp_user_timeout) == (0.0, 0.0, 30.0)
    assert options.max_sockets == 3
    assert AgentOptions(tcp_user_timeout="5s").in_place_of_a_library().tcp_user_timeout == 5.0
    assert AgentOptions(tcp_user_timeout=0).in_place_of_a_library().tcp_user_timeout == 0.0
    given = AgentOptions(timeout=9)
    assert given.in_place_of_a_library() is given


@pytest.mark.parametrize(
    ("given", "kept"), [(True, "idempotent"), ("idempotent", "idempotent"), ("safe", "safe"), (False, False)]
)
def test_ak_34_what_is_sent_again_is_said_by_name_and_true_is_what_it_was(given: Any, kept: object) -> None:
    assert AgentOptions(retry_stale=given).retry_stale == kept
    assert AgentOptions().retry_stale == "safe"


@pytest.mark.parametrize(("given", "error"), [("always", ValueError), (1, TypeError), ([], TypeError)])
def test_ak_34_what_is_none_of_these_is_an_error_that_names_the_option(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="retry_stale"):
        AgentOptions(retry_stale=given)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"free_socket_timeout": -1}, ValueError),
        ({"timeout": "soon"}, ValueError),
        ({"max_sockets": 0}, ValueError),
        ({"max_sockets": 1.5}, TypeError),
        ({"max_sockets": True}, TypeError),
        ({"max_free_sockets": None}, TypeError),
        ({"scheduling": "random"}, ValueError),
        ({"keep_alive": 1}, TypeError),
        ({"socket_active_ttl": []}, TypeError),
        ({"max_requests_per_socket": 0}, ValueError),
        ({"max_cached_sessions": -1}, ValueError),
        ({"maxSockets": 5}, TypeError),
        ({"hand_off": True}, ValueError),
    ],
)
def test_a_bad_option_is_named_with_its_value(given: dict[str, Any], error: type[Exception]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(error) as caught:
        AgentOptions(**given)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_agents_take_options_by_name_or_whole_but_not_both() -> None:
    assert AsyncKeepAliveAgent(max_sockets=3).options == AsyncKeepAliveAgent(AgentOptions(max_sockets=3)).options
    with pytest.raises(TypeError, match="max_sockets"):
        AsyncKeepAliveAgent(AgentOptions(), max_sockets=3)
    with pytest.raises(ValueError, match="keep_alive"):
        AsyncPlainAgent(AgentOptions())
