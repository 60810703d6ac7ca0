"""The arithmetic of comparisons, against scipy's own answers and textbook ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy")

from scipy import stats

from kabench.comparison.looks import FIRST_LOOK, Look, last_look, planned_looks
from kabench.comparison.statistics import LEVEL, Sample, holm, least_p_value, trials_needed

figures = st.floats(1.0, 1e6)


def paired(base: list[float], other: list[float]) -> Sample:
    return Sample(np.asarray(base), np.asarray(other), is_paired=True)


def apart(base: list[float], other: list[float]) -> Sample:
    return Sample(np.asarray(base), np.asarray(other), is_paired=False)


def test_pairs_get_the_p_value_of_scipys_signed_rank_test() -> None:
    rng = np.random.default_rng(7)
    base, other = rng.lognormal(size=12), rng.lognormal(0.3, size=12)
    expected = stats.wilcoxon(np.log(other) - np.log(base), method="exact").pvalue
    assert paired(list(base), list(other)).p_value() == pytest.approx(expected)


def test_records_apart_get_the_p_value_of_scipys_rank_sum_test() -> None:
    rng = np.random.default_rng(7)
    base, other = rng.lognormal(size=7), rng.lognormal(0.8, size=6)
    expected = stats.mannwhitneyu(other, base, method="exact").pvalue
    assert apart(list(base), list(other)).p_value() == pytest.approx(expected)


def test_a_constant_ratio_is_found_exactly() -> None:
    base = [100.0, 110.0, 95.0, 102.0, 99.0, 108.0, 93.0, 105.0]
    sample = paired(base, [0.95 * each for each in base])
    assert sample.ratio() == pytest.approx(0.95)
    low, high = sample.interval(LEVEL) or (0, 0)
    assert low == pytest.approx(0.95)
    assert high == pytest.approx(0.95)
    assert sample.p_value() == pytest.approx(2 / 2**8)


def test_equal_figures_differ_nowhere() -> None:
    sample = paired([100.0] * 12, [100.0] * 12)
    assert not sample.differs_anywhere()
    assert sample.p_value() == 1.0
    assert sample.interval(LEVEL) == (1.0, 1.0)
    assert sample.least_p_value() == 1.0


def test_figures_that_are_equal_speak_for_no_difference() -> None:
    mostly_equal = paired([100.0] * 30, [100.0] * 22 + [101.0] * 8)
    assert mostly_equal.p_value() > LEVEL
    assert (mostly_equal.interval(LEVEL) or (0, 0))[0] == 1.0
    few_equal = paired([100.0] * 12, [100.0] * 2 + [101.0 + i for i in range(10)])
    assert few_equal.p_value() < 0.01
    assert few_equal.is_above()


def test_a_thousand_pairs_take_no_time_and_no_memory_to_speak_of() -> None:
    rng = np.random.default_rng(1)
    sample = paired(list(rng.lognormal(0, 0.1, 1000)), list(rng.lognormal(0.05, 0.1, 1000)))
    low, high = sample.interval(LEVEL) or (0, 0)
    assert 1.03 < low < sample.ratio() < high < 1.08


def test_five_pairs_are_too_few_for_an_interval_and_six_are_not() -> None:
    base = [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    other = [101.0, 103.0, 105.0, 107.0, 109.0, 111.0]
    assert paired(base[:5], other[:5]).interval(LEVEL) is None
    low, high = paired(base, other).interval(LEVEL) or (0, 0)
    ratios = [b / a for a, b in zip(base, other, strict=True)]
    assert low == pytest.approx(min(ratios))
    assert high == pytest.approx(max(ratios))


def test_a_ratio_as_probable_as_half_the_level_is_not_in_the_interval() -> None:
    sample = paired([1.0] * 6, [math.exp(power / 1000) for power in (1, 2, 4, 8, 16, 32)])
    assert sample.interval(1 / 33) is None
    assert sample.interval(1 / 32) == pytest.approx((math.exp(0.001), math.exp(0.032)))
    assert sample.interval(1 / 16) == pytest.approx((math.exp(0.0015), math.exp(0.024)))


def test_the_interval_of_pairs_that_all_but_one_have_the_same_ratio_is_that_ratio() -> None:
    for factor in (1.1, 0.9):
        sample = paired([100.0] * 30, [100.0] + [100.0 * factor] * 29)
        assert sample.interval(LEVEL) == pytest.approx((factor, factor))


@pytest.mark.parametrize("pairs", [20, 50])
def test_up_to_50_pairs_the_p_value_is_exact_though_all_tie(pairs: int) -> None:
    assert paired([100.0] * pairs, [101.0] * pairs).p_value() == pytest.approx(2.0 ** (1 - pairs), rel=1e-9)


def test_above_50_pairs_the_p_value_is_that_of_the_normal_distribution() -> None:
    rng = np.random.default_rng(7)
    base, other = rng.lognormal(size=51), rng.lognormal(0.3, size=51)
    expected = stats.wilcoxon(np.log(other) - np.log(base), method="asymptotic").pvalue
    assert paired(list(base), list(other)).p_value() == pytest.approx(expected, rel=1e-9)


def test_pairs_that_are_all_equal_are_as_probable_as_can_be() -> None:
    equal = paired([100.0] * 6, [100.0] * 6)
    assert equal.p_above(0.0) == equal.p_below(0.0) == equal.p_value() == 1.0


@pytest.mark.parametrize("make", [paired, apart])
def test_the_interval_holds_what_the_test_does_not_reject_and_nothing_else(make: type[Sample]) -> None:
    rng = np.random.default_rng(11)
    sample = make(list(rng.lognormal(0, 0.1, 10)), list(rng.lognormal(0.05, 0.1, 10)))  # type: ignore[arg-type, call-arg]
    low, high = sample.interval(LEVEL) or (0, 0)
    assert sample.p_above(math.log(low) + 1e-6) > LEVEL / 2
    assert sample.p_above(math.log(low) - 1e-6) <= LEVEL / 2
    assert sample.p_below(math.log(high) - 1e-6) > LEVEL / 2
    assert sample.p_below(math.log(high) + 1e-6) <= LEVEL / 2
    assert low < sample.ratio() < high


@settings(deadline=None)
@given(st.lists(st.tuples(figures, figures), min_size=6, max_size=12))
def test_the_estimate_lies_in_its_interval(pairs: list[tuple[float, float]]) -> None:
    sample = paired([a for a, _ in pairs], [b for _, b in pairs])
    interval = sample.interval(LEVEL)
    if interval is not None:
        assert interval[0] * (1 - 1e-9) <= sample.ratio() <= interval[1] * (1 + 1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(figures, figures), min_size=6, max_size=12), st.booleans())
def test_which_side_is_the_base_changes_nothing_but_the_sign(pairs: list[tuple[float, float]], is_paired: bool) -> None:
    base, other = [a for a, _ in pairs], [b for _, b in pairs]
    make = paired if is_paired else apart
    one, back = make(base, other), make(other, base)
    assert one.p_value() == pytest.approx(back.p_value())
    assert one.ratio() == pytest.approx(1 / back.ratio())


def test_95_percent_of_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        base = rng.lognormal(0, 0.2, 12)
        low, high = paired(list(base), list(0.9 * base * rng.lognormal(0, 0.05, 12))).interval(LEVEL) or (0, 0)
        held += low <= 0.9 <= high
    assert held >= 0.93 * 400


def test_a_ratio_that_no_number_can_hold_is_infinite() -> None:
    sample = apart([1e-320] * 6, [1e300] * 6)
    assert sample.ratio() == math.inf
    assert sample.interval(LEVEL) == (math.inf, math.inf)


def test_tied_records_apart_are_judged_by_permutation() -> None:
    sample = apart([10.0] * 5, [11.0] * 5)
    assert sample.p_value() == pytest.approx(2 / 252)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.001, 0.02, 0.2], [True, True, False]),
        ([0.02, 0.02, 0.2], [False, False, False]),
        ([0.2, 0.016, 0.024], [False, True, True]),
        ([0.06], [False]),
        ([0.05], [True]),
        ([0.025, 0.05], [True, True]),
        ([], []),
    ],
)
def test_holm(p_values: list[float], expected: list[bool]) -> None:
    assert holm(p_values, 0.05) == expected


def test_as_many_trials_are_needed_as_can_reach_the_level_exactly() -> None:
    assert trials_needed(1, 1 / 32, is_paired=True) == 6
    assert trials_needed(1, 2 / 70, is_paired=False) == 4
    assert trials_needed(1, 1.0, is_paired=True) == 1


@pytest.mark.parametrize("is_paired", [True, False])
def test_no_p_value_is_above_1(is_paired: bool) -> None:
    assert least_p_value(0, 0, is_paired=is_paired) == 1.0
    assert least_p_value(1, 1, is_paired=is_paired) == 1.0


def test_pairs_that_are_equal_count_for_nothing_in_what_a_sample_could_show() -> None:
    base = [100.0] * 8
    assert paired(base, [101.0 + i for i in range(6)] + [100.0, 100.0]).least_p_value() == 1 / 32
    assert paired(base, base).least_p_value() == 1.0
    assert apart(base[:4], base[:4]).least_p_value() == 2 / 70


@pytest.mark.parametrize("make", [paired, apart])
def test_equal_sides_differ_nowhere_and_none_is_above_the_other(make: type[Sample]) -> None:
    equal = make([100.0] * 6, [100.0] * 6)  # type: ignore[arg-type, call-arg]
    assert not equal.differs_anywhere()
    assert not equal.is_above()
    assert make([100.0] * 6, [100.0] * 5 + [101.0]).differs_anywhere()  # type: ignore[arg-type, call-arg]


def test_two_tied_records_of_a_side_are_judged_by_permutation_too() -> None:
    assert apart([10.0, 10.0], [11.0, 11.0, 11.0]).p_value() == pytest.approx(2 / 10)


def test_eight_pairs_answer_six_questions_at_once() -> None:
    assert trials_needed(6, LEVEL, is_paired=True) == 8
    assert trials_needed(1, LEVEL, is_paired=True) == 6
    assert trials_needed(6, LEVEL, is_paired=False) == 5
    assert least_p_value(8, 8, is_paired=True) == 2 / 256


@given(st.integers(1, 2000))
def test_looks_spend_the_whole_level_and_no_more(most: int) -> None:
    looks = planned_looks(most, LEVEL, 6)
    assert sum(look.level for look in looks) == pytest.approx(LEVEL)
    assert all(look.level > 0 for look in looks)
    assert [look.trials for look in looks] == sorted({look.trials for look in looks})
    assert looks[-1].trials == most
    assert looks[0].trials >= min(most, FIRST_LOOK)


@pytest.mark.parametrize("questions", [6, 18])
def test_every_look_could_find_something_in_all_metrics_at_once(questions: int) -> None:
    for most in (15, 20, 50, 100, 300, 720, 5000):
        for look in planned_looks(most, LEVEL, questions):
            assert least_p_value(look.trials, look.trials, is_paired=True) <= look.level / questions
    assert planned_looks(30, LEVEL, 6)[0].trials == FIRST_LOOK


def test_a_look_that_comes_too_soon_has_what_is_left() -> None:
    look = last_look(15, [Look(12, 0.02)], 0.05)
    assert look.trials == 15
    assert look.level == pytest.approx(0.03)
