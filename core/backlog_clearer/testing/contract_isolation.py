"""What `Source` and `Lane` promise about errors that concern one partition, one topic, or one client.

Each test breaks one part for good, and asks for the whole of everything else.
"""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Mode, Partition
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.report import RunResult
from backlog_clearer.source import Lane
from backlog_clearer.testing.bench import BATCH, MESSAGES, Bench
from backlog_clearer.testing.contract_lanes import WAIT_S, messages, read_some
from backlog_clearer.testing.suite import Suite, claims, opened
from backlog_clearer.testing.support import Stopwatch


class IsolationContract(Suite):
    """An error costs what it concerns, and nothing else."""

    def others_cleared(self, bench: Bench, result: RunResult, broken: int = 0) -> None:
        """All partitions but one are cleared and verified; that one has an error, and is not cleared."""
        left = bench.left()
        assert {number for number, count in left.items() if count} <= {broken}
        rows = {item.partition: item for item in result.partitions}
        assert sorted(rows) == list(range(bench.partitions))
        assert rows[broken].error is not None
        assert rows[broken].verified is not True
        for number, item in rows.items():
            assert number == broken or item.error is None, item
            assert number == broken or item.verified is not False, item
            assert number == broken or not bench.has_figures or item.verified, item
        assert not result.cleared

    def test_a_survey_reports_a_broken_partition_and_all_others(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """A partition that cannot be asked is a state with an error; the figures of the others are there."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source, bench.breaking(0) as breaks:
            targets = {state.partition: state.end for state in source.survey().partitions}
            breaks()
            states = {state.partition.number: state for state in source.survey().partitions}
            left = source.remaining(targets)
        assert sorted(states) == list(range(bench.partitions))
        assert states[0].error is not None
        assert states[0].backlog is None
        for number in range(1, bench.partitions):
            assert states[number].error is None
            assert states[number].backlog in {None, MESSAGES}
            assert not (bench.has_figures and bench.unit_is_messages) or states[number].backlog
        found = {item.partition.number: item for item in left}
        assert sorted(found) == sorted(states)
        assert found[0].left is None
        assert found[0].error is not None
        assert all(found[number].error is None for number in range(1, bench.partitions))

    @pytest.mark.parametrize("mode", Mode)
    def test_a_broken_partition_leaves_the_others_to_be_cleared(
        self, bench: Bench, tmp_path: Path, mode: Mode
    ) -> None:
        """A run on a subscription with a broken partition clears all others, and reports that one."""
        self.fill(bench)
        with bench.breaking(0) as breaks:
            breaks()
            result = self.run(bench, bench.options(tmp_path, mode=mode))
        self.others_cleared(bench, result)

    @pytest.mark.parametrize("mode", Mode)
    def test_a_partition_that_breaks_after_the_survey_ends_with_its_error(
        self, bench: Bench, tmp_path: Path, mode: Mode
    ) -> None:
        """Where a partition breaks while the question is open, all others are cleared."""
        self.fill(bench)
        with bench.breaking(0) as breaks:

            def confirm(_: object) -> bool:
                breaks()
                return True

            run = bench.options(tmp_path, mode=mode, max_retries=2, workers=1)
            result = self.run(bench, run, Callbacks(confirm=confirm))
        self.others_cleared(bench, result)

    def test_an_error_of_one_partition_names_it(self, bench: Bench, tmp_path: Path) -> None:
        """A lane with a broken partition raises an error that has it, and a lane without it works."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source, bench.breaking(0) as breaks:
            asked = claims(source)
            lane = source.open_lane(asked)
            breaks()
            assert self.broken_partition(bench, lane) == asked[0].partition
            lane.close()
            with closing(source.open_lane(asked[1:])) as lane:
                assert messages(read_some(bench, lane))

    def broken_partition(self, bench: Bench, lane: Lane) -> Partition | None:
        """The partition that the error of a read, or what a settle refuses, names."""
        deadline = time.monotonic() + bench.patience_s
        while time.monotonic() < deadline:
            try:
                lane.read(WAIT_S, BATCH)
            except BrokerError as error:
                return error.partition
            refused = [item.partition for item in lane.settle() if item.error]
            if refused:
                return refused[0]
        raise AssertionError("the lane did not notice that a partition is broken")

    def test_one_topic_of_several_that_is_missing_is_a_state(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """Of two topics, one that does not exist has an error with its name, and the other is cleared."""
        self.fill(bench)
        with closing(bench.half_missing_source(bench.options(tmp_path))) as source:
            states = source.survey().partitions
            missing = [state for state in states if bench.missing_name in state.partition.topic]
            assert [state.partition.number for state in missing] == [0]
            assert bench.missing_name in str(missing[0].error)
            assert len(states) == bench.partitions + 1
            result = self.cleared(bench, source, bench.options(tmp_path))
        assert not bench.exists(bench.missing_name)
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        assert not result.cleared
        assert [item.topic for item in result.partitions if item.error] == [missing[0].partition.topic]

    def test_fewer_consumers_than_workers_clear_everything(self, bench: Bench, tmp_path: Path) -> None:
        """Where the broker allows one consumer, a run with more workers clears all, and notes why."""
        self.fill(bench)
        with bench.limited_consumers() as sentence:
            result = self.run(bench, bench.options(tmp_path, workers=bench.partitions))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        assert result.verified is not False
        assert not any(item.error for item in result.partitions)
        told = [note for note in result.notes if "could not continue" in note]
        assert all(sentence in note for note in told), told

    def test_an_added_partition_is_surveyed(self, bench: Bench, tmp_path: Path) -> None:
        """A partition that is added while a source is open is in its next survey, with its backlog."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            before = {state.partition for state in source.survey().partitions}
            added = bench.add_partition()
            bench.produce(added, BATCH)
            deadline = time.monotonic() + bench.patience_s
            new = before
            states = source.survey().partitions
            while new == before and time.monotonic() < deadline:
                states = source.survey().partitions
                new = {state.partition for state in states}
            assert {partition.number for partition in new - before} == {added}
            (state,) = [state for state in states if state.partition.number == added]
            assert state.backlog in {None, BATCH}
            with closing(source.open_lane(claims(source)[-1:])) as lane:
                assert messages(read_some(bench, lane)) > 0

    def test_a_silent_connection_is_noticed_before_half_the_stall_time(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """A lane whose broker falls silent raises a transient error in less than half of --stall-seconds."""
        if not bench.notices_silence:
            pytest.skip(f"{type(bench).__name__} does not offer `notices_silence`")
        self.fill(bench)
        run = bench.options(tmp_path, stall_seconds=bench.stall_s)
        with bench.faults() as (faults, open_source), closing(open_source(run)) as source:
            lane = source.open_lane(claims(source, frozen=False))
            read_some(bench, lane)
            lane.settle()
            faults.stall()
            noticed = False
            with Stopwatch() as watch:
                while not noticed and watch.seconds < bench.stall_s:
                    try:
                        lane.read(WAIT_S, None)
                    except TransientError:
                        noticed = True
            took = watch.seconds
            lane.close()
        assert noticed, "reads continue without an error while the broker is silent"
        assert took < bench.stall_s / 2 + WAIT_S, f"{took:.1f} s of {bench.stall_s} s"

    def test_throttling_is_reported(self, bench: Bench, tmp_path: Path) -> None:
        """While the broker throttles, a lane's `throttled_s` grows, and it does not shrink."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            lane = source.open_lane(claims(source))
            assert lane.throttled_s == 0
            seen = [0.0]
            with bench.throttling():
                deadline = time.monotonic() + bench.patience_s
                while seen[-1] == 0 and time.monotonic() < deadline:
                    lane.read(WAIT_S, BATCH)
                    seen.append(lane.throttled_s)
            lane.settle()
            lane.close()
            seen.append(lane.throttled_s)
        assert seen[-1] > 0
        assert seen == sorted(seen)

    def test_an_answer_that_is_too_large_is_asked_for_in_parts(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """Where answers to full requests are refused as too large, smaller requests clear everything."""
        self.fill(bench)
        with bench.small_answers():
            result = self.run(bench, bench.options(tmp_path, max_retries=0, stall_seconds=10))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        assert result.totals.messages == MESSAGES * bench.partitions
        assert result.totals.retries == 0

    def test_a_claim_of_a_broken_partition_does_not_end_a_skip(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """A skip of claims of which one is broken has one outcome for each, and moves the others."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source, bench.breaking(0) as breaks:
            asked = claims(source)
            breaks()
            outcomes = {item.partition: item for item in source.skip(asked)}
        assert sorted(outcomes) == sorted(claim.partition for claim in asked)
        broken: Partition = asked[0].partition
        assert outcomes[broken].error is not None
        assert all(item.error is None for key, item in outcomes.items() if key != broken)
        assert {number for number, count in bench.left().items() if count} <= {0}
