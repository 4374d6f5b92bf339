"""The model of many slices: by hand where that is possible, by laws that must hold where it is not."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fanout import changed
from bench.fanout_model import Bound, Platform, shares, simulate
from bench.fanout_platforms import PLATFORMS, Known, figures
from bench.processes import ROOT

PLAIN = Platform(name="plain", most_slices=math.inf, at_once=math.inf, cold_s=0)
PRICED = replace(PLAIN, usd_vcpu_s=0.1, usd_gib_s=0.01, usd_invocation=0.5)

works = st.lists(st.integers(0, 1000).map(float), min_size=1, max_size=30)
rates = st.floats(0.5, 100)
platforms = st.builds(
    Platform,
    name=st.just("any"),
    most_slices=st.just(math.inf),
    at_once=st.integers(1, 8),
    cold_s=st.floats(0, 5),
    starts_per_s=st.floats(0.1, 10) | st.just(math.inf),
    burst=st.integers(1, 5),
    poll_s=st.just(0.0) | st.floats(1, 30),
    starts_per_poll=st.integers(1, 4) | st.just(math.inf),
    keeps_instances=st.booleans(),
    paces_instances=st.booleans(),
    deadline_s=st.floats(5, 60) | st.just(math.inf),
    again_s=st.floats(0, 5),
)


def test_the_broker_is_shared_evenly() -> None:
    """Two slices of 30 and 100 on a broker of 15/s: 7.5/s each, then 10/s for the remaining one."""
    ran = simulate(PLAIN, [30, 100], rate=10, capacity=15, startup_s=0)
    assert ran.seconds == pytest.approx(30 / 7.5 + 70 / 10)
    assert ran.billed_s == pytest.approx(4 + 11)
    assert (ran.invocations, ran.requeues, ran.busiest) == (2, 0, 2)
    assert ran.bound is Bound.SLICES
    assert simulate(PLAIN, [100, 100], rate=10, capacity=15, startup_s=0).bound is Bound.BROKER


def test_a_pace_spreads_the_starts() -> None:
    """Six slices of a second each, two at once and then one a second, end after 1 + 4 seconds."""
    ran = simulate(
        replace(PLAIN, starts_per_s=1, burst=2), [10] * 6, rate=10, capacity=1e9, startup_s=0
    )
    assert ran.seconds == pytest.approx(4 + 1)
    assert ran.bound is Bound.START_RATE


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    """Two places that get free at once after a long time, and a bucket of one: 25 s between the starts."""
    paced = replace(PLAIN, at_once=2, starts_per_s=1 / 25, burst=1)
    ran = simulate(paced, [1250, 1000, 10, 10], rate=10, capacity=1e9, startup_s=0)
    assert ran.seconds == pytest.approx(125 + 25 + 1)  # the first two begin at 0 and 25


def test_each_poll_starts_a_bounded_number() -> None:
    """Five slices, two a poll, every 30 s: the last begins at the third poll, 90 s after the dispatch."""
    ran = simulate(
        replace(PLAIN, poll_s=30, starts_per_poll=2), [10] * 5, rate=10, capacity=1e9, startup_s=0
    )
    assert ran.seconds == pytest.approx(90 + 1)


def test_slices_run_in_waves_where_few_run_at_once() -> None:
    """Four slices of a second, two at once, each with a cold start of 3 s and a start-up of 1 s."""
    ran = simulate(replace(PLAIN, at_once=2, cold_s=3), [10] * 4, rate=10, capacity=1e9, startup_s=1)
    assert ran.seconds == pytest.approx(2 * (3 + 1 + 1))
    assert (ran.busiest, ran.bound) == (2, Bound.CONCURRENCY)
    assert ran.billed_s == pytest.approx(4 * 5)


def test_an_instance_that_is_kept_starts_cold_once() -> None:
    """The same with instances that are kept: the second wave has no cold start, and it is not billed."""
    kept = replace(PLAIN, at_once=2, cold_s=3, keeps_instances=True, bills_cold=False)
    ran = simulate(kept, [10] * 4, rate=10, capacity=1e9, startup_s=1)
    assert ran.seconds == pytest.approx((3 + 1 + 1) + (1 + 1))
    assert ran.billed_s == pytest.approx(4 * 2)


def test_a_pace_of_instances_does_not_hold_up_slices() -> None:
    """One new instance a poll of 30 s: three slices of a second run on the first, without waiting."""
    kept = replace(
        PLAIN, poll_s=30, starts_per_poll=1, keeps_instances=True, paces_instances=True, at_once=9
    )
    assert simulate(kept, [10] * 3, rate=10, capacity=1e9, startup_s=0).seconds == pytest.approx(33)
    every = replace(kept, paces_instances=False)
    assert simulate(every, [10] * 3, rate=10, capacity=1e9, startup_s=0).seconds == pytest.approx(91)


def test_a_deadline_enqueues_the_rest_again() -> None:
    """25 messages at 10/s, a second an invocation: three of them, each with its start-up and a delay."""
    ran = simulate(
        replace(PLAIN, deadline_s=1, again_s=0.5), [25], rate=10, capacity=1e9, startup_s=0.25
    )
    assert ran.seconds == pytest.approx(1.25 + 0.5 + 1.25 + 0.5 + 0.25 + 0.5)
    assert (ran.invocations, ran.requeues) == (3, 2)
    assert ran.billed_s == pytest.approx(1.25 + 1.25 + 0.75)


def test_rounding_makes_no_invocation() -> None:
    """Three slices of exactly three deadlines each need nine invocations, not one more for 1e-15."""
    paced = replace(PLAIN, deadline_s=0.3, starts_per_s=1, burst=1)
    ran = simulate(paced, [0.3 * 7 * 3] * 3, rate=7, capacity=1e9, startup_s=0.1)
    assert ran.invocations == 9


def test_an_empty_slice_costs_its_start() -> None:
    """A slice without a partition needs its start-up and is billed for it."""
    ran = simulate(PRICED, [0, 0], rate=10, capacity=10, startup_s=2)
    assert (ran.seconds, ran.billed_s, ran.messages) == (2, 4, 0)
    assert ran.cost == pytest.approx(4 * (1 * 0.1 + 2 * 0.01) + 2 * 0.5)
    assert ran.bound is Bound.START_UP


def test_a_minimum_is_billed() -> None:
    """Where a minute is the least that is billed, two slices of 2 s cost two minutes."""
    ran = simulate(replace(PRICED, least_billed_s=60), [10, 10], rate=10, capacity=1e9, startup_s=1)
    assert ran.billed_s == 120


@pytest.mark.parametrize("price", ["usd_vcpu_s", "usd_gib_s", "usd_invocation"])
def test_an_unknown_price_makes_no_cost(price: str) -> None:
    """Without one of its prices a run's cost is unknown, not 0."""
    unpriced = replace(PRICED, **{price: None})  # type: ignore[arg-type] # a field by its name
    assert simulate(unpriced, [10], rate=10, capacity=10, startup_s=0).cost is None


@pytest.mark.parametrize(
    "change",
    [{"most_slices": 1}, {"at_once": 0}, {"deadline_s": 0}],
    ids=lambda change: next(iter(change)),
)
def test_an_impossible_plan_is_refused(change: dict[str, float]) -> None:
    """More slices than the platform takes, or none that may run, raise instead of never ending."""
    with pytest.raises(ValueError, match="must be positive|slices"):
        simulate(replace(PLAIN, **change), [1, 1], rate=1, capacity=1, startup_s=0)  # type: ignore[arg-type] # numbers


def test_slices_beyond_the_partitions_are_empty() -> None:
    """Ten slices of four partitions: four have one each, six have nothing."""
    assert shares([5, 6, 7, 8], 10) == [5, 6, 7, 8, 0, 0, 0, 0, 0, 0]
    assert shares([5, 6, 7, 8, 9], 2) == [5 + 7 + 9, 6 + 8]


@given(works, rates, rates)
def test_it_agrees_with_the_closed_form(work: list[float], rate: float, capacity: float) -> None:
    """All start at once: the shortest slice ends first, each step at the share of the remaining ones."""
    seconds = done = 0.0
    for number, size in enumerate(sorted(work)):
        seconds += (size - done) / min(rate, capacity / (len(work) - number))
        done = size
    ran = simulate(PLAIN, work, rate=rate, capacity=capacity, startup_s=0)
    assert ran.seconds == pytest.approx(seconds)


@given(platforms, works, rates, rates, st.floats(0, 3))
def test_the_model_obeys_its_limits(
    platform: Platform, work: list[float], rate: float, capacity: float, startup_s: float
) -> None:
    """Every message is read once; no limit is passed; nothing is faster than its parts allow."""
    ran = simulate(platform, work, rate=rate, capacity=capacity, startup_s=startup_s)
    assert ran.messages == pytest.approx(sum(work), abs=0.01)
    assert ran.busiest <= platform.at_once
    assert ran.invocations >= len(work)
    least = max(sum(work) / capacity, max(work) / rate, sum(work) / rate / platform.at_once)
    assert ran.seconds >= least * (1 - 1e-9) + startup_s
    assert ran.billed_s >= sum(work) / rate * (1 - 1e-9) + startup_s * ran.invocations
    starts = max(0.0, len(work) - platform.burst) / platform.starts_per_s
    if not platform.paces_instances:
        assert ran.seconds >= starts * (1 - 1e-9)
    assert (ran.requeues > 0) == (ran.invocations > len(work))


@given(works, rates, rates, st.floats(1, 5))
def test_more_never_takes_longer(
    work: list[float], rate: float, capacity: float, factor: float
) -> None:
    """Without deadlines, a faster slice or a larger broker ends no later."""
    before = simulate(PLAIN, work, rate=rate, capacity=capacity, startup_s=1).seconds
    for more in (
        simulate(PLAIN, work, rate=rate * factor, capacity=capacity, startup_s=1),
        simulate(PLAIN, work, rate=rate, capacity=capacity * factor, startup_s=1),
    ):
        assert more.seconds <= before * (1 + 1e-9)


@pytest.mark.parametrize("known", PLATFORMS, ids=lambda known: known.platform.name)
def test_every_figure_has_its_source(known: Known) -> None:
    """A figure that differs from its default names its source page, or is marked as assumed."""
    given_ = {
        field.name
        for field in fields(Platform)
        if field.name not in {"name", "keeps_instances", "paces_instances"}
        and getattr(known.platform, field.name) != field.default
    }
    assert given_ <= set(known.sources)
    assert set(known.sources) <= {field.name for field in fields(Platform)}
    assert all(known.sources.values())


def test_the_page_has_the_figures() -> None:
    """The page beside the bench shows the figures that the model uses."""
    assert figures(PLATFORMS) in (ROOT / "bench" / "README-fanout.md").read_text()


def test_a_figure_can_be_set() -> None:
    """`--set` changes the one figure that it names."""
    found = {item.key: item for item in changed(PLATFORMS, ["flex.at_once=250"])}
    for item in PLATFORMS:
        expected = replace(item.platform, at_once=250) if item.key == "flex" else item.platform
        assert found[item.key].platform == expected


@pytest.mark.parametrize("setting", ["lambda.at_once=1", "flex.name=x", "flex.at_once=many", "flex"])
def test_a_wrong_setting_is_named(setting: str) -> None:
    """`--set` with an unknown platform or field, or without a number, ends the program and names it."""
    with pytest.raises(SystemExit, match=f"--set {setting}: give"):
        changed(PLATFORMS, [setting])


@pytest.mark.parametrize("known", PLATFORMS, ids=lambda known: known.platform.name)
def test_ten_thousand_slices_read_everything(known: Known) -> None:
    """Every platform takes 10,000 slices of 10^12 messages to their end, all of them read."""
    work = shares([1e8] * 10_000, 10_000)
    ran = simulate(known.platform, work, rate=1.25e6, capacity=1e8, startup_s=1)
    assert ran.messages == pytest.approx(1e12)
    assert ran.invocations >= 10_000
    assert (ran.cost is None) == (known.platform.usd_vcpu_s is None)
