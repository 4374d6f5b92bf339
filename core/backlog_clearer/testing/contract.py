"""The contract suite: what every adapter must do.

This part makes whole runs; `contract_lanes` makes single calls, and `contract_faults` and
`contract_damage` disturb the broker.

A system joins with a `Bench`, which makes subscriptions and reports what the broker shows of them, and a
subclass:

    class TestMemory(Contract):
        @pytest.fixture
        def bench(self) -> Iterator[Bench]:
            yield MemoryBench()

Everything asserted here is read through `Bench`, from the broker, not from the adapter under test.
"""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.engine.drain import Drain, Halt, drain
from backlog_clearer.errors import UsageError
from backlog_clearer.model import Mode, Position, StopReason
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.job import Callbacks
from backlog_clearer.run.receipt import load, original_positions
from backlog_clearer.run.restore import restore_source
from backlog_clearer.testing.bench import BATCH, MESSAGES, Bench
from backlog_clearer.testing.contract_bounds import BoundContract
from backlog_clearer.testing.contract_damage import DamageContract
from backlog_clearer.testing.contract_faults import FaultContract
from backlog_clearer.testing.contract_identity import IdentityContract
from backlog_clearer.testing.contract_isolation import IsolationContract
from backlog_clearer.testing.contract_lanes import LaneContract
from backlog_clearer.testing.contract_stops import StopContract
from backlog_clearer.testing.suite import claims, opened


class Contract(
    LaneContract,
    FaultContract,
    DamageContract,
    IdentityContract,
    IsolationContract,
    BoundContract,
    StopContract,
):
    """The suite; a subclass provides the fixture `bench`."""

    def test_consume_clears_everything(self, bench: Bench, tmp_path: Path) -> None:
        """Consume leaves nothing to deliver, counts every message once and is verified."""
        self.fill(bench)
        result = self.run(bench, bench.options(tmp_path))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        assert result.totals.messages == MESSAGES * bench.partitions
        if bench.has_figures:
            assert (result.verified, result.cleared) == (True, True)
        else:
            assert (result.verified, result.cleared) == (None, False)

    def test_skip_clears_everything_without_reading(self, bench: Bench, tmp_path: Path) -> None:
        """Skip leaves nothing to deliver and reads no message."""
        self.fill(bench)
        result = self.run(bench, bench.options(tmp_path, mode=Mode.SKIP))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        assert result.totals.messages == 0
        assert result.verified is (True if bench.has_figures else None)

    def test_survey_and_dry_run_change_nothing(self, bench: Bench, tmp_path: Path) -> None:
        """A survey and a dry run change nothing on the broker and write no receipt."""
        self.fill(bench)
        before = bench.left()
        result = self.run(bench, bench.options(tmp_path, dry_run=True))
        assert bench.left() == before
        assert not (tmp_path / "receipts").exists()
        if bench.has_figures and bench.unit_is_messages:
            assert result.totals.backlog == MESSAGES * bench.partitions

    def test_target_is_frozen(self, bench: Bench, tmp_path: Path) -> None:
        """Messages that are published after the start stay in the backlog."""
        self.fill(bench)
        run = bench.options(tmp_path)

        def publish_late(_: object) -> bool:
            for number in range(bench.partitions):
                bench.produce(number, 11)
            return True

        self.run(bench, run, Callbacks(confirm=publish_late))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 11)

    def test_a_run_is_frozen_once(self, bench: Bench, tmp_path: Path) -> None:
        """Another attempt of the same run continues to the first one's target, not to the end as it is now."""
        self.fill(bench)
        first = self.run(bench, bench.options(tmp_path, max_messages=300))
        for number in range(bench.partitions):
            bench.produce(number, 11)
        again = self.run(bench, bench.options_after(tmp_path))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 11)
        assert first.totals.messages + again.totals.messages == MESSAGES * bench.partitions
        assert again.verified is not False
        assert any("froze its targets" in note for note in again.notes)
        assert not any("froze its targets" in note for note in first.notes)

    def test_skip_stops_at_the_frozen_target(self, bench: Bench, tmp_path: Path) -> None:
        """A skip leaves messages that are published after the start."""
        if not bench.survives_skip:
            pytest.skip("this test server crashes when a skip leaves messages behind its target")
        self.fill(bench)

        def publish_late(_: object) -> bool:
            for number in range(bench.partitions):
                bench.produce(number, 11)
            return True

        run = bench.options(tmp_path, mode=Mode.SKIP)
        self.run(bench, run, Callbacks(confirm=publish_late))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 11)

    def test_empty_backlog_is_cleared_at_once(self, bench: Bench, tmp_path: Path) -> None:
        """With nothing to do, the run ends, reads nothing and reports that all is cleared."""
        if not bench.answers_empty:
            pytest.skip("this test server answers with an error where a topic has no message")
        result = self.run(bench, bench.options(tmp_path))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        assert result.totals.messages == 0
        assert result.verified is (True if bench.has_figures else None)

    def test_second_run_finds_nothing(self, bench: Bench, tmp_path: Path) -> None:
        """Clearing twice reads no message twice."""
        self.fill(bench)
        self.run(bench, bench.options(tmp_path))
        assert self.run(bench, bench.options(tmp_path)).totals.messages == 0

    def test_limit_acknowledges_no_more_than_it_counts(self, bench: Bench, tmp_path: Path) -> None:
        """After --max-messages, messages counted and messages left add up to the backlog before."""
        self.fill(bench)
        result = self.run(bench, bench.options(tmp_path, max_messages=500))
        assert result.stop_reason is StopReason.LIMIT
        assert not result.cleared
        assert sum(bench.left().values()) + result.totals.messages == MESSAGES * bench.partitions
        if bench.exact_limit:
            assert result.totals.messages == 500

    def test_counts_add_up_over_two_runs(self, bench: Bench, tmp_path: Path) -> None:
        """A run that stopped early and the one that continues it count every message exactly once."""
        self.fill(bench)
        first = self.run(bench, bench.options(tmp_path, max_messages=300))
        second = self.run(bench, bench.options_after(tmp_path))
        assert first.totals.messages + second.totals.messages == MESSAGES * bench.partitions
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)

    def test_stop_signal_settles_what_was_read(self, bench: Bench, tmp_path: Path) -> None:
        """A stop request acknowledges the messages that were read and no others."""
        self.fill(bench, MESSAGES * 4)
        halt = Halt()
        run = bench.options(tmp_path, stop_when_empty=False, follow=True)

        def stop_after_some(seen: Any) -> None:
            if seen.messages:
                halt.signal()

        with opened(bench, run) as source:
            done: Drain = drain(
                source, claims(source, frozen=False), run, halt=halt, observe=stop_after_some
            )
        assert done.reason is StopReason.SIGNAL
        counted = sum(item.messages for item in done.partitions.values())
        assert counted + sum(bench.left().values()) == MESSAGES * 4 * bench.partitions

    def test_restore_undoes_consume(self, bench: Bench, tmp_path: Path) -> None:
        """Restoring a receipt brings back every message, by the broker's figures."""
        self.fill(bench)
        self._and_back(bench, bench.options_after(tmp_path))

    def test_restore_undoes_skip(self, bench: Bench, tmp_path: Path) -> None:
        """Restoring a receipt brings back every skipped message."""
        self.fill(bench)
        self._and_back(bench, bench.options(tmp_path, mode=Mode.SKIP))

    def _and_back(self, bench: Bench, run: RunOptions) -> None:
        self.run(bench, bench.options(Path(run.receipt_dir).parent, max_messages=50))
        before = bench.left()
        result = self.run(bench, run)
        assert result.receipt is not None
        receipt = load(result.receipt)
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        with opened(bench, run) as source:
            back = restore_source(
                source,
                self.job(bench, run),
                original_positions([receipt]),
                receipt.identity,
                Callbacks(),
            )
        if not bench.exact_restore:
            assert any(item.error or item.undo for item in back.partitions) or back.notes
            return
        failed: dict[int, Position | str | None] = {
            item.partition: item.error for item in back.partitions if item.error
        }
        assert {n: c for n, c in bench.left().items() if n not in failed} == {
            n: c for n, c in before.items() if n not in failed
        }
        assert len(failed) < bench.partitions

    def test_receipt_is_stored_before_the_first_change(self, bench: Bench, tmp_path: Path) -> None:
        """At the moment of confirmation the receipt exists and the backlog is untouched."""
        self.fill(bench)
        before = bench.left()
        seen: list[tuple[int, dict[int, int]]] = []

        def look(_: object) -> bool:
            seen.append((len(list((tmp_path / "receipts").rglob("*.json"))), bench.left()))
            return True

        self.run(bench, bench.options(tmp_path), Callbacks(confirm=look))
        assert seen == [(1, before)]

    def test_missing_subscription_is_refused_and_not_created(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """A mistyped name is refused with that name, and creates nothing."""
        if not bench.refuses_missing:
            pytest.skip("this broker cannot be asked whether a subscription exists")
        with pytest.raises(UsageError, match=bench.missing_name):  # noqa: SIM117 opening may raise, too
            with closing(bench.missing_source(bench.options(tmp_path))) as source:
                source.survey()
        assert not bench.exists(bench.missing_name)

    def test_attached_consumers_are_reported(self, bench: Bench, tmp_path: Path) -> None:
        """The survey names an ordinary consumer that is attached."""
        if not bench.detects_live:
            pytest.skip("this broker, as it runs here, has no notion of attached consumers")
        with bench.attach(), opened(bench, bench.options(tmp_path)) as source:
            assert source.survey().live

    def test_two_slices_together_clear_all(self, bench: Bench, tmp_path: Path) -> None:
        """Slices of one backlog, run at the same time, clear disjoint partitions, and all of them together."""
        self.fill(bench)
        totals: list[int] = []

        def part(index: int) -> None:
            run = bench.options(tmp_path, slice=f"{index}/2", workers=1)
            totals.append(self.run(bench, run).totals.messages)

        threads = [threading.Thread(target=part, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(totals) == MESSAGES * bench.partitions
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)

    def test_other_slices_of_a_run_do_not_count_as_attached(self, bench: Bench, tmp_path: Path) -> None:
        """Consumers of another slice of the same run make no slice of it refuse to start."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            lane = source.open_lane(claims(source))
            lane.read(0.5, BATCH)
            for part in ("0/2", "1/2", None):
                with opened(bench, bench.options(tmp_path, slice=part)) as other:
                    assert other.survey().live == ()
            lane.close()

    def test_lane_close_is_idempotent(self, bench: Bench, tmp_path: Path) -> None:
        """Closing twice, or without having read, raises nothing and acknowledges nothing."""
        self.fill(bench)
        before = bench.left()
        with opened(bench, bench.options(tmp_path)) as source:
            lane = source.open_lane(claims(source)[:1])
            assert list(lane.settle()) == []
            lane.close()
            lane.close()
            source.close()
        assert bench.left() == before
