"""What `Source` and `Lane` promise while the broker does not answer, refuses, or denies access.

Every error must be this project's, of the right class, in time, and without a secret; every figure that
is reported must be true.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.errors import BrokerError, ClearerError, TransientError
from backlog_clearer.model import Bound, Outcome, Partition, Position, Recorded, Remaining, Survey
from backlog_clearer.run import retry
from backlog_clearer.source import Accountable, Bounded, Dated, Lane, Revisable, Source
from backlog_clearer.testing.bench import BATCH, MESSAGES, Bench
from backlog_clearer.testing.contract_lanes import WAIT_S, check_backlog, messages, read_some
from backlog_clearer.testing.suite import Suite, claims, opened
from backlog_clearer.testing.support import Stopwatch

SLACK_S = 1.0  # on top of the bench's limit for a call


@dataclass
class Called:
    """How one call ended."""

    name: str
    value: Any = None
    error: BaseException | None = None
    seconds: float = 0.0


def called(name: str, call: Callable[[], Any]) -> Called:
    """Make a call, and note how it ended."""
    done = Called(name)
    with Stopwatch() as watch:
        try:
            done.value = call()
        except Exception as error:  # noqa: BLE001 # which errors come is the question
            done.error = error
    done.seconds = watch.seconds
    return done


def together(calls: dict[str, Callable[[], Any]]) -> dict[str, Called]:
    """Make calls at the same time, each on a thread."""
    found: dict[str, Called] = {}

    def make(name: str) -> None:
        found[name] = called(name, calls[name])

    threads = [threading.Thread(target=make, args=(name,)) for name in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def check(bench: Bench, done: Called, kinds: type[ClearerError] = BrokerError) -> None:
    """A call ended in time, and if it failed then with one of these errors, and no secret in it."""
    limit = bench.call_limit_s + SLACK_S
    assert done.seconds < limit, f"{done.name} took {done.seconds:.1f} s; {limit:.1f} s are allowed"
    if done.error is None:
        return
    shown = hide(bench, repr(done.error))
    assert isinstance(done.error, ClearerError), f"{done.name} let a foreign error out: {shown}"
    assert isinstance(done.error, kinds), f"{done.name} raised {shown}, not {kinds.__name__}"
    assert_no_secret(bench, str(done.error))
    assert str(done.error), f"{done.name} raised an error without a text"


def assert_no_secret(bench: Bench, text: str) -> None:
    """None of the bench's secrets is in a text; the failure does not show the text itself."""
    shown = [index for index, secret in enumerate(bench.secrets) if secret in text]
    assert not shown, f"secret {shown} of the bench is in a text: {hide(bench, text)}"


def hide(bench: Bench, text: str) -> str:
    """A text with its secrets marked."""
    for secret in bench.secrets:
        text = text.replace(secret, "<SECRET>")
    return text


class Disturbed:
    """Sources and a lane that work, made before the broker is disturbed."""

    def __init__(self, bench: Bench, open_source: Callable[[], Source]) -> None:
        self._bench = bench
        self._open = open_source
        self.sources: list[Source] = []
        first = self.fresh()
        self.asked = claims(first)
        self.fresh()  # never used before the disturbance
        self.reader = self.fresh()
        claim = claims(self.reader)[-1]
        self.partition = claim.partition
        self.lane: Lane = self.reader.open_lane([claim])
        self.read = messages(read_some(bench, self.lane))

    def fresh(self) -> Source:
        """Another source."""
        self.sources.append(self._open())
        return self.sources[-1]

    def surveyed(self) -> Source:
        """Another source that was used."""
        source = self.fresh()
        source.survey()
        return source

    def calls(self) -> dict[str, Callable[[], Any]]:
        """One call of each kind, each on a separate source, so that all can be made at the same time."""
        asking, skipping, restoring, opening = (self.surveyed() for _ in range(4))
        first, second = self.asked[0], self.asked[min(1, len(self.asked) - 1)]
        states = [claim.state for claim in self.asked]
        calls: dict[str, Callable[[], Any]] = {
            "survey": self.sources[1].survey,
            "remaining": lambda: asking.remaining({c.partition: c.target for c in self.asked}),
            "skip": lambda: skipping.skip([first]),
            "restore": lambda: restoring.restore([Recorded(second.partition, second.state.position)]),
            "open_lane": lambda: opening.open_lane([second]).close(),
            "settle": self.lane.settle,
        }
        if isinstance(cutting := self.surveyed(), Bounded) and self._bench.cuts_by_time:
            bound = Bound(until=self._bench.between())
            calls["cut"] = lambda: cutting.cut(states, bound)
        if isinstance(aging := self.surveyed(), Dated):
            calls["oldest"] = lambda: aging.oldest(states)
        return calls

    def close(self) -> list[Called]:
        """Close the lane, and then each source."""
        closes = [self.lane.close, *(source.close for source in self.sources)]
        return [called("close", close) for close in closes]


class FaultContract(Suite):
    """Errors, their class, their time and their texts."""

    @pytest.mark.parametrize("fault", ["refuse", "stall"])
    def test_every_call_ends_in_time_with_an_error_or_the_truth(
        self, bench: Bench, tmp_path: Path, fault: str
    ) -> None:
        """While the broker refuses or is silent, no call hangs, lets a library's error out, or invents."""
        self.fill(bench)
        run = bench.options(tmp_path)
        with bench.faults() as (faults, open_source):
            disturbed = Disturbed(bench, lambda: open_source(run))
            calls = disturbed.calls()
            getattr(faults, fault)()
            done = together(calls)
            closed = disturbed.close()
            faults.heal()
        for each in done.values():
            kinds = TransientError if each.name in {"open_lane", "settle"} else BrokerError
            check(bench, each, kinds)
        for each in closed:
            check(bench, each)
            assert each.error is None
        self.check_truth(bench, done, disturbed)

    def check_truth(self, bench: Bench, done: dict[str, Called], disturbed: Disturbed) -> None:
        """Whatever was reported instead of an error is what the broker shows."""
        surveyed, remaining = done["survey"].value, done["remaining"].value
        moved = {item.partition for item in done["skip"].value or () if not item.error}
        if isinstance(surveyed, Survey):  # at the same time as the skip, which may not be disturbed
            for state in surveyed.partitions:
                assert state.partition in moved or state.error or state.backlog != 0, state
        for item in remaining or ():
            assert isinstance(item, Remaining)
            assert item.partition in moved or item.left != 0, item
        left = bench.left()
        if bench.confirms and bench.partitions > 1:
            settled = messages(done["settle"].value or ())
            assert left[disturbed.partition.number] == MESSAGES - settled
        for item in done["skip"].value or ():
            assert isinstance(item, Outcome)
            if bench.partitions > 1:
                assert (item.error is None) == (left[item.partition.number] == 0), item

    def test_an_unreachable_broker_is_named_at_once(self, bench: Bench, tmp_path: Path) -> None:
        """A survey of a broker that refuses connections names the address, after few attempts.

        Or it is true, where it asks another address (an admin API).
        """
        self.fill(bench)
        with bench.faults() as (faults, open_source):
            faults.refuse()
            with closing(open_source(bench.options(tmp_path))) as source:
                begun = faults.connections
                done = called("survey", source.survey)
                tried = faults.connections - begun
        check(bench, done)
        if done.error is None:
            check_backlog(bench, done.value.partitions)
            return
        assert faults.address.rpartition(":")[2] in str(done.error)
        assert tried <= bench.attempts, f"{tried} connections were tried: adapters never retry"

    @pytest.mark.parametrize("fault", ["refuse", "cut"])
    def test_a_broken_lane_fails_once_and_may_be_opened_again(
        self, bench: Bench, tmp_path: Path, fault: str
    ) -> None:
        """A connection that breaks is one transient error; a new lane continues, and all counts add up."""
        self.fill(bench)
        run = bench.options(tmp_path)
        with bench.faults() as (faults, open_source), closing(open_source(run)) as source:
            asked = claims(source)
            lane = source.open_lane(asked)
            settled = 0
            read_some(bench, lane)
            settled += messages(lane.settle())
            read_some(bench, lane)
            begun = faults.connections
            getattr(faults, fault)()
            failed = self.read_to_error(bench, lane, expected=fault == "refuse")
            tried = faults.connections - begun
            done = called("settle", lane.settle)
            check(bench, done, TransientError)
            settled += messages(done.value or ())
            assert called("close", lane.close).error is None
            again = called("open_lane", lambda: source.open_lane(asked).close())
            check(bench, again, TransientError)
            faults.heal()
        if failed.error is not None:
            assert tried <= bench.attempts, f"{tried} connections were tried: adapters never retry"
        rest = self.run(bench, bench.options_after(tmp_path))
        assert sum(bench.left().values()) == 0
        if bench.confirms:
            counted = settled + rest.totals.messages
            assert counted == MESSAGES * bench.partitions + bench.confirmed_late()

    def read_to_error(self, bench: Bench, lane: Lane, *, expected: bool) -> Called:
        """Read until a call fails, as it must in time where `expected`, or nothing comes for a while.

        A lane whose client had received everything before the fault reads to its targets, and need not
        fail.
        """
        deadline = time.monotonic() + (bench.call_limit_s if expected else 2.0)
        reached: set[Partition] = set()
        while True:
            done = called("read", lambda: lane.read(WAIT_S, BATCH))
            check(bench, done, TransientError)
            reached.update(advance.partition for advance in done.value or () if advance.left == 0)
            if done.error is not None or len(reached) == bench.partitions:
                return done
            if time.monotonic() > deadline:
                assert not expected, "reads continue without an error while connections are refused"
                return done

    def test_a_run_survives_a_cut(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Connections that break in the middle of a run cost retries, and nothing else."""
        # A client on a busy machine may be slow to notice.
        monkeypatch.setattr(retry, "PATIENCE_S", 60.0)
        self.fill(bench)
        run = bench.options_after(tmp_path, max_seconds=120)
        with bench.faults() as (faults, open_source), closing(open_source(run)) as source:
            cut = threading.Timer(0.05, faults.cut)
            cut.start()
            result = self.cleared(bench, source, run)
            cut.join()
        assert sum(bench.left().values()) == 0
        assert result.verified is not False
        if bench.confirms:
            most = MESSAGES * bench.partitions + bench.confirmed_late()
            assert result.totals.messages <= most

    def test_acknowledgements_that_the_broker_lost_are_taken_off_the_count(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """What the broker does not show as acknowledged is not counted; without its answer that is unknown."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            claim = claims(source)[0]
            lane = source.open_lane([claim])
            read_some(bench, lane)
            settled = kept = messages(lane.settle())
            while settled < MESSAGES:
                read_some(bench, lane)
                settled += messages(lane.settle())
            lane.close()
            bench.forget(claim.partition.number, kept)
            found = source.remaining({claim.partition: claim.target})
            stored = {item.partition: item.position for item in found}
            back, unshown = self.returned(source, stored), self.returned(source, {})
            doubted = source.unreported(stored) if isinstance(source, Accountable) else {}
        assert bench.left()[claim.partition.number] == MESSAGES - kept
        taken = back.get(claim.partition)
        assert taken is not None, "what the broker shows is known"
        certain = claim.partition not in doubted
        assert settled - taken == kept if certain else settled - taken <= kept
        assert unshown == {claim.partition: None}

    @staticmethod
    def returned(
        source: Source, stored: Mapping[Partition, Position | None]
    ) -> Mapping[Partition, int | None]:
        """What comes off the count; an adapter without `Revisable` takes off nothing."""
        return dict(source.returned(stored)) if isinstance(source, Revisable) else {}

    def test_refused_credentials_are_final(self, bench: Bench, tmp_path: Path) -> None:
        """Credentials that the broker refuses are an error that is not retried, without the credentials."""
        self.fill(bench, 1)
        with closing(bench.denied_source(bench.options(tmp_path))) as source:
            done = called("survey", source.survey)
        check(bench, done)
        assert done.error is not None, "a survey with refused credentials succeeded"
        assert not isinstance(done.error, TransientError), done.error

    def test_no_text_contains_a_secret(
        self, bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Surveys, plans, results, receipts and log records contain no secret."""
        if not bench.secrets:
            pytest.skip(f"{type(bench).__name__} does not offer `secrets`")
        self.fill(bench)
        run = bench.options(tmp_path)
        caplog.set_level(logging.DEBUG, "backlog_clearer")
        texts: list[str] = []
        with closing(bench.source(run)) as source:
            survey = source.survey()
            texts += [
                repr(survey),
                repr(source.remaining({s.partition: s.end for s in survey.partitions})),
            ]
        texts.append(self.run(bench, run).model_dump_json())
        texts += [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json")]
        texts += [record.getMessage() for record in caplog.records if is_ours(record)]
        for text in texts:
            assert_no_secret(bench, text)


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a log record is this project's, at any level, or a warning of a library."""
    return record.name.startswith("backlog_clearer") or record.levelno >= logging.WARNING
