"""The contract suite: a run that clears only a part of the backlog, and the age and growth of a backlog."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Bound, Mode
from backlog_clearer.source import Bounded, Countable, Dated
from backlog_clearer.testing.bench import SOME, Bench
from backlog_clearer.testing.suite import Suite, opened

YOUNG = 11  # messages of each partition that are too young
_LONG_AGO = datetime(2001, 1, 1, tzinfo=timezone.utc)


class BoundContract(Suite):
    """Targets before the end."""

    def two_ages(self, bench: Bench) -> datetime:
        """Publish `SOME` and then `YOUNG` messages to each partition; a time in between."""
        if not bench.cuts_by_time:
            pytest.skip(f"{type(bench).__name__} does not offer `cuts_by_time`")
        self.fill(bench, SOME)
        between = bench.between()
        self.fill(bench, YOUNG)
        return between

    def test_consume_until_a_time_leaves_what_is_younger(self, bench: Bench, tmp_path: Path) -> None:
        """Consume with --until acknowledges every message before the time, and none after it."""
        between = self.two_ages(bench)
        result = self.run(bench, bench.options(tmp_path, until=between))
        assert bench.left() == dict.fromkeys(range(bench.partitions), YOUNG)
        assert result.totals.messages == SOME * bench.partitions
        assert (result.until, result.verified) == (between, True if bench.has_figures else None)
        if bench.has_figures and bench.unit_is_messages and bench.counts_parts:
            assert result.totals.backlog == SOME * bench.partitions

    def test_skip_until_a_time_leaves_what_is_younger(self, bench: Bench, tmp_path: Path) -> None:
        """Skip with --until leaves the messages after the time, and reads none."""
        if not bench.survives_skip:
            pytest.skip("this test server crashes when a skip leaves messages behind its target")
        between = self.two_ages(bench)
        result = self.run(bench, bench.options(tmp_path, mode=Mode.SKIP, until=between))
        assert bench.left() == dict.fromkeys(range(bench.partitions), YOUNG)
        assert result.totals.messages == 0
        assert result.verified is (True if bench.has_figures else None)

    def test_a_bound_is_frozen_once_a_run(self, bench: Bench, tmp_path: Path) -> None:
        """A later attempt of a run keeps the first one's target, and notes that another time is ignored."""
        between = self.two_ages(bench)
        self.run(bench, bench.options(tmp_path, until=between, max_messages=100))
        later = bench.between()
        again = self.run(bench, bench.options_after(tmp_path, until=later))
        assert bench.left() == dict.fromkeys(range(bench.partitions), YOUNG)
        assert again.until == between
        assert any("is ignored" in note for note in again.notes)

    def test_a_time_before_all_messages_clears_nothing(self, bench: Bench, tmp_path: Path) -> None:
        """With a time before every message nothing is acknowledged, and the reason is noted."""
        if not bench.cuts_by_time:
            pytest.skip(f"{type(bench).__name__} does not offer `cuts_by_time`")
        self.fill(bench, SOME)
        result = self.run(bench, bench.options(tmp_path, until=_LONG_AGO))
        assert bench.left() == dict.fromkeys(range(bench.partitions), SOME)
        assert result.totals.messages == 0
        assert any("2001-01-01T00:00:00Z" in note for note in result.notes)
        if bench.shows_position:  # the adapter can compare the target with the first message retained
            assert any("no message of before" in note for note in result.notes)

    def test_a_time_after_all_messages_clears_everything(self, bench: Bench, tmp_path: Path) -> None:
        """With a time after every message the target is the end."""
        if not bench.cuts_by_time:
            pytest.skip(f"{type(bench).__name__} does not offer `cuts_by_time`")
        self.fill(bench, SOME)
        result = self.run(bench, bench.options(tmp_path, until=bench.between()))
        assert bench.left() == dict.fromkeys(range(bench.partitions), 0)
        assert result.totals.messages == SOME * bench.partitions

    def test_a_time_in_the_future_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        """A run until a time in the future is wrong use, and changes nothing."""
        self.fill(bench, SOME)
        before = bench.left()
        tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
        with pytest.raises(UsageError, match="future"):
            self.run(bench, bench.options(tmp_path, until=tomorrow))
        assert bench.left() == before

    def test_keeping_the_last_messages(self, bench: Bench, tmp_path: Path) -> None:
        """With --keep-last so many messages of each partition stay."""
        if not bench.cuts_by_count:
            pytest.skip(f"{type(bench).__name__} does not offer `cuts_by_count`")
        self.fill(bench, SOME)
        result = self.run(bench, bench.options(tmp_path, keep_last=YOUNG))
        assert bench.left() == dict.fromkeys(range(bench.partitions), YOUNG)
        assert result.totals.messages == (SOME - YOUNG) * bench.partitions

    def test_a_partition_that_breaks_costs_only_its_own_target(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """The target of a broken partition is an error, and the others have theirs."""
        between = self.two_ages(bench)
        with opened(bench, bench.options(tmp_path)) as source, bench.breaking(0) as breaks:
            assert isinstance(source, Bounded)
            states = source.survey().partitions
            breaks()
            found = {item.partition.number: item for item in source.cut(states, Bound(until=between))}
        assert sorted(found) == list(range(bench.partitions))
        assert (found.pop(0).error is None, found[1].error) == (False, None)
        assert all(item.position is not None and item.error is None for item in found.values())

    def test_a_bound_that_is_not_possible_is_refused(self, bench: Bench, tmp_path: Path) -> None:
        """A system without a kind of bound refuses it in one sentence, and changes nothing."""
        bounds = {"until": bench.between(), "keep_last": 1}
        offered = {"until": bench.cuts_by_time, "keep_last": bench.cuts_by_count}
        with opened(bench, bench.options(tmp_path)) as source:
            if isinstance(source, Bounded) and all(offered.values()):
                pytest.skip("this adapter has every kind of bound")
        self.fill(bench, SOME)
        before = bench.left()
        for name, value in bounds.items():
            if not offered[name]:
                with pytest.raises(UsageError):
                    self.run(bench, bench.options(tmp_path, **{name: value}))
        assert bench.left() == before

    def test_the_age_is_that_of_the_oldest_message(self, bench: Bench, tmp_path: Path) -> None:
        """The age of each partition is that of its first unacknowledged message; without ages none is asked."""
        if not bench.shows_age:
            pytest.skip(f"{type(bench).__name__} does not offer `shows_age`")
        before = bench.between()
        self.fill(bench, SOME)
        after = bench.between()
        self.fill(bench, YOUNG)
        with opened(bench, bench.options(tmp_path)) as source:
            assert isinstance(source, Dated)
            found = source.oldest(source.survey().partitions)
        assert {partition.number for partition in found} == set(range(bench.partitions))
        assert all(before <= time <= after for time in found.values())
        shown = self.run(bench, bench.options(tmp_path, dry_run=True))
        assert shown.totals.oldest == min(found.values())
        without = self.run(bench, bench.options(tmp_path, dry_run=True, ages=False))
        assert without.totals.oldest is None
        everything = dict.fromkeys(range(bench.partitions), SOME + YOUNG)
        assert bench.left() == everything, "asking for ages changed the backlog"

    def test_the_age_follows_what_was_acknowledged(self, bench: Bench, tmp_path: Path) -> None:
        """Once the older messages are cleared, the age is that of the first of the younger ones."""
        if not bench.shows_age:
            pytest.skip(f"{type(bench).__name__} does not offer `shows_age`")
        between = self.two_ages(bench)
        self.run(bench, bench.options(tmp_path, until=between))
        shown = self.run(bench, bench.options(tmp_path / "another run", dry_run=True))
        assert shown.totals.oldest is not None
        assert between <= shown.totals.oldest <= bench.between()

    def test_an_empty_backlog_has_no_age(self, bench: Bench, tmp_path: Path) -> None:
        """Where nothing is left there is no oldest message, and none is invented."""
        if not bench.shows_age:
            pytest.skip(f"{type(bench).__name__} does not offer `shows_age`")
        self.fill(bench, SOME)
        self.run(bench, bench.options(tmp_path))
        shown = self.run(bench, bench.options(tmp_path / "another run", dry_run=True))
        assert [row.oldest for row in shown.partitions] == [None] * bench.partitions

    def test_what_lies_between_two_ends_is_what_arrived(self, bench: Bench, tmp_path: Path) -> None:
        """One source surveys twice; between the ends of each partition lies what its backlog grew by."""
        with opened(bench, bench.options(tmp_path, dry_run=True)) as source:
            if not isinstance(source, Countable):
                pytest.skip(f"{type(bench).__name__} does not offer `Countable`")
            self.fill(bench, SOME)
            before = source.survey().partitions
            bench.produce(0, YOUNG)
            after = source.survey().partitions
            for old, new in zip(before, after, strict=True):
                if old.end is None or new.end is None or old.backlog is None or new.backlog is None:
                    continue
                grown = new.backlog - old.backlog
                assert source.between(new.partition, old.end, new.end) == grown
                assert source.between(new.partition, new.end, old.end) == -grown
