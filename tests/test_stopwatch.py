"""The clock for bounds on a call's time, which leaves out the lateness of a busy machine."""

from __future__ import annotations

import time

from backlog_clearer.testing.support import Stopwatch


def test_time_is_measured_without_lateness() -> None:
    """A wait is measured, and seconds by which this machine was late are left out."""
    begun = time.monotonic()
    with Stopwatch() as watch:
        time.sleep(0.4)
    elapsed, measured = time.monotonic() - begun, watch.seconds
    assert 0.2 <= measured <= elapsed
    watch._late_s += 0.1
    assert watch.seconds <= max(measured - 0.09, elapsed / 2)


def test_lateness_is_never_more_than_half_of_the_time() -> None:
    """A call that hangs takes at least half of its real time, however late the machine was."""
    with Stopwatch() as watch:
        time.sleep(0.1)
    watch._late_s = 1000.0
    assert watch.seconds >= 0.05
