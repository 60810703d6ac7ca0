"""The search for an idle timeout, played through against made-up servers."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kabench.probe.idle import ACCURACY, End, IdleObservations, ages_in_between, ages_to_ask_at

SOCKETS = 22  # what 200 requests leave for it


def search(timeout_s: float, budget_s: float, sockets: int = SOCKETS) -> IdleObservations:
    """What a server that forgets silently lets see, in as many looks as there is time for."""
    seen = IdleObservations()

    def ask(ages: list[float]) -> float:
        for age in ages:
            if age < timeout_s:
                seen.alive.append(age)
            else:
                seen.dead.append((age, True))
                return age
        return ages[-1]

    passed_s = ask(ages_to_ask_at(budget_s, sockets))
    low, high = seen.longest_alive_s, seen.shortest_dead_s
    if seen.dead and passed_s + high <= budget_s:
        between = ages_in_between(low, high, sockets)
        if between:
            ask(between)
    return seen


@given(timeout_s=st.floats(0.6, 88.0))
def test_a_silent_timeout_is_found_to_5_percent_in_90_seconds(timeout_s: float) -> None:
    found = search(timeout_s, 90.0).finding()
    assert found.end is End.SILENCE
    assert found.is_exact
    assert found.timeout_s is not None
    assert abs(found.timeout_s - timeout_s) <= (ACCURACY + 0.005) * timeout_s + 0.01


@given(timeout_s=st.floats(0.1, 200.0), budget_s=st.floats(1.0, 120.0), sockets=st.integers(1, 40))
def test_what_is_said_is_true_however_small_the_budget(timeout_s: float, budget_s: float, sockets: int) -> None:
    found = search(timeout_s, budget_s, sockets).finding()
    assert found.low_s < timeout_s
    if found.timeout_s is None:
        assert found.end is None
        assert timeout_s > budget_s * 0.999 or found.low_s == 0
    else:
        assert found.high_s is not None
        assert found.low_s < timeout_s <= found.high_s
        assert found.low_s <= found.timeout_s <= found.high_s


@given(longest_s=st.floats(0.1, 10_000.0), sockets=st.integers(0, 100))
def test_ages_rise_to_the_longest(longest_s: float, sockets: int) -> None:
    ages = ages_to_ask_at(longest_s, sockets)
    assert len(ages) == sockets
    assert ages == sorted(set(ages))
    assert not ages or ages[-1] == pytest.approx(longest_s)
    assert all(age > 0 for age in ages)


@given(low=st.floats(0.01, 100.0), ratio=st.floats(1.0001, 10.0), sockets=st.integers(0, 50))
def test_ages_in_between_are_in_between(low: float, ratio: float, sockets: int) -> None:
    ages = ages_in_between(low, low * ratio, sockets)
    assert len(ages) <= sockets
    assert all(low < age < low * ratio for age in ages)
    if sockets == 50:
        steps = [low, *ages, low * ratio]
        assert all(b / a <= 1 + 2 * ACCURACY + 1e-9 for a, b in itertools.pairwise(steps))


def test_what_the_server_ends_needs_no_search() -> None:
    seen = IdleObservations(ended=[(3.01, End.FIN), (3.0, End.FIN), (3.02, End.RST)], alive=[1.0, 2.9])
    found = seen.finding()
    assert (found.low_s, found.high_s, found.timeout_s, found.end, found.sockets) == (3.0, 3.02, 3.01, End.FIN, 3)
    assert found.is_exact
    uneven = IdleObservations(ended=[(1.0, End.RST), (3.0, End.RST)]).finding()
    assert not uneven.is_exact
    assert uneven.end is End.RST


def test_an_answer_beyond_a_dead_age_proves_nothing() -> None:
    seen = IdleObservations(alive=[1.0, 5.0], dead=[(4.0, False)])
    found = seen.finding()
    assert (found.low_s, found.high_s) == (1.0, 4.0)
    assert not found.is_reset_later
    assert math.isinf(IdleObservations().shortest_dead_s)
