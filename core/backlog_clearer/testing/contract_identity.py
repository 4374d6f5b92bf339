"""What `Source` and `Lane` promise where a log was deleted and created again under its name.

Each test makes the topic anew at another step of a run, fills it past every position that the old one had,
and counts what the new one still delivers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from backlog_clearer.errors import BrokerError, RecreatedError
from backlog_clearer.model import Mode, Recorded, Settled
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.report import RunResult
from backlog_clearer.run.restore import restore_source
from backlog_clearer.source import Lane
from backlog_clearer.testing.bench import BATCH, SOME, Bench
from backlog_clearer.testing.contract_lanes import WAIT_S, messages, read_some
from backlog_clearer.testing.suite import Suite, claims, opened

NEW = SOME + BATCH  # per partition of the new topic: more than any position of the old one


class IdentityContract(Suite):
    """A topic that was created again is another one."""

    def anew(self, bench: Bench) -> None:
        """Delete the topic, create it again, and fill it past the old end."""
        bench.recreate()
        self.fill(bench, NEW)

    def untouched(self, bench: Bench) -> None:
        """Every message of the new topic is still delivered to the subscription."""
        assert bench.left() == dict.fromkeys(range(bench.partitions), NEW)

    def test_a_log_created_again_has_another_incarnation(self, bench: Bench, tmp_path: Path) -> None:
        """An incarnation is the same in every survey and in what is left, and another one in a new log."""
        self.fill(bench, SOME)
        run = bench.options(tmp_path)
        with opened(bench, run) as source:
            before = {state.partition: state.incarnation for state in source.survey().partitions}
            left = source.remaining(dict.fromkeys(before))
            again = {state.partition: state.incarnation for state in source.survey().partitions}
            assert {item.partition: item.incarnation for item in left} == before == again
        self.anew(bench)
        with opened(bench, run) as source:
            after = {state.partition: state.incarnation for state in source.survey().partitions}
        assert None not in before.values()
        assert all(before[partition] != after[partition] for partition in before)

    def test_skip_does_not_move_in_a_log_created_again(self, bench: Bench, tmp_path: Path) -> None:
        """Claims of a log that is gone move nothing in the new one, and have an error each."""
        self.fill(bench, SOME)
        with opened(bench, bench.options(tmp_path)) as source:
            asked = claims(source)
            self.anew(bench)
            outcomes = source.skip(asked)
        assert sorted(item.partition for item in outcomes if item.error) == sorted(
            claim.partition for claim in asked
        )
        self.untouched(bench)

    def test_a_lane_does_not_open_on_a_log_created_again(self, bench: Bench, tmp_path: Path) -> None:
        """A lane for claims of a log that is gone reports that, and acknowledges nothing of the new one."""
        self.fill(bench, SOME)
        with opened(bench, bench.options(tmp_path)) as source:
            asked = claims(source)
            self.anew(bench)
            self.refused(bench, lambda: source.open_lane(asked))
        self.untouched(bench)

    def test_a_lane_stops_where_its_log_is_created_again(self, bench: Bench, tmp_path: Path) -> None:
        """A lane whose log is replaced while it reads acknowledges nothing of the new one."""
        self.fill(bench, SOME)
        with opened(bench, bench.options(tmp_path)) as source:
            lane = source.open_lane(claims(source))
            read_some(bench, lane)
            self.anew(bench)
            assert not messages(self.settled(lane)), "what was read was acknowledged in the new log"
            self.refused(bench, lambda: lane)
        self.untouched(bench)

    def refused(self, bench: Bench, open_lane: Callable[[], Lane]) -> None:
        """Read and settle until a `RecreatedError`; transient errors may come before it."""
        deadline = time.monotonic() + bench.patience_s
        lane = None
        try:
            while time.monotonic() < deadline:
                lane = lane or open_lane()
                lane.read(WAIT_S, BATCH)
                if any(item.error for item in lane.settle()):
                    return
        except RecreatedError:
            return
        except BrokerError:
            if lane is None:
                raise  # a lane could not be opened, for another reason
            return  # the broker ended the lane: the engine opens another one, which must not open
        finally:
            if lane is not None:
                assert not messages(self.settled(lane)), "messages of the new log were acknowledged"
                lane.close()
        raise AssertionError("the lane did not notice that its log is another one")

    def settled(self, lane: Lane) -> Sequence[Settled]:
        """One settle, as the engine makes it after an error, too; nothing where it fails."""
        try:
            return lane.settle()
        except BrokerError:
            return ()

    def test_figures_of_a_log_created_again_are_not_the_old_ones(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """Asked what is left up to an old target, the new log answers under its own incarnation."""
        self.fill(bench, SOME)
        with opened(bench, bench.options(tmp_path)) as source:
            states = {state.partition: state for state in source.survey().partitions}
            self.anew(bench)
            found = source.remaining({key: state.end for key, state in states.items()})
        assert sorted(item.partition for item in found) == sorted(states)
        for item in found:
            assert item.error or item.incarnation != states[item.partition].incarnation, item

    def test_a_run_leaves_a_log_alone_that_is_created_again_before_it_begins(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """A topic that is made anew while the question is open is not cleared, in either mode."""
        for mode in Mode:
            self.fill(bench, SOME)
            run = bench.options(tmp_path, mode=mode, stall_seconds=3, receipt_dir=str(tmp_path / mode))

            def confirm(_: object) -> bool:
                self.anew(bench)
                return True

            result = self.run(bench, run, Callbacks(confirm=confirm))
            self.not_cleared(result)
            self.untouched(bench)
            bench.recreate()

    def not_cleared(self, result: RunResult) -> None:
        """Every row reports what happened to its log."""
        assert not result.cleared
        assert result.verified is not True
        assert result.totals.messages == 0
        for item in result.partitions:
            assert item.error is not None, item
            assert item.verified is not True, item

    def test_a_later_attempt_leaves_a_log_alone_that_is_created_again(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """A run's frozen target is not one of the new log."""
        self.fill(bench, SOME)
        run = bench.options(tmp_path)
        self.run(bench, run.model_copy(update={"max_messages": 50}))
        self.anew(bench)
        result = self.run(bench, run)
        self.not_cleared(result)
        assert all("created again" in str(item.error) for item in result.partitions)
        self.untouched(bench)

    def test_restore_does_not_write_to_a_log_created_again(self, bench: Bench, tmp_path: Path) -> None:
        """A receipt of the old log restores nothing in the new one, neither as a run nor as a call."""
        self.fill(bench, SOME)
        run = bench.options(tmp_path)
        self.run(bench, run.model_copy(update={"max_messages": 50}))
        receipt = load(str(self.run(bench, run).receipt))
        recorded = original_positions([receipt])
        self.anew(bench)
        self.run(
            bench, run.model_copy(update={"receipt_dir": str(tmp_path / "new"), "mode": Mode.SKIP})
        )
        with opened(bench, run) as source:
            back = restore_source(source, self.job(bench, run), recorded, receipt.identity, Callbacks())
            outcomes = source.restore([Recorded(*item) for item in recorded])
        assert not back.cleared
        assert all(item.error for item in back.partitions)
        assert all(item.error for item in outcomes)
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
