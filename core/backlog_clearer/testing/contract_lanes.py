"""What `Source` and `Lane` promise, one call at a time, while the broker works."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from backlog_clearer.model import (
    Advance,
    Claim,
    Mode,
    Partition,
    PartitionState,
    Position,
    Recorded,
    Settled,
)
from backlog_clearer.source import Enumerable, Lane, Source
from backlog_clearer.testing.bench import BATCH, MESSAGES, Bench
from backlog_clearer.testing.suite import Suite, claims, opened
from backlog_clearer.testing.support import Stopwatch

WAIT_S = 0.2  # what reads are given


def read_until(bench: Bench, lane: Lane, enough: Callable[[Sequence[Advance]], bool]) -> list[Advance]:
    """Read until `enough` of all advances so far; fails after the bench's patience."""
    found: list[Advance] = []
    deadline = time.monotonic() + bench.patience_s
    while not enough(found):
        assert time.monotonic() < deadline, f"nothing more arrived; so far: {found[-5:]}"
        found += lane.read(WAIT_S, BATCH)
    return found


def read_some(bench: Bench, lane: Lane) -> list[Advance]:
    """Read until at least one message has arrived."""
    return read_until(bench, lane, lambda found: messages(found) > 0)


def messages(found: Sequence[Advance | Settled]) -> int:
    """Messages of all partitions together."""
    return sum(item.messages for item in found)


def by_partition(found: Sequence[Advance | Settled]) -> Counter[Partition]:
    """Messages of each partition that has any."""
    counts: Counter[Partition] = Counter()
    for item in found:
        counts[item.partition] += item.messages
    return +counts


class LaneContract(Suite):
    """Lanes, positions, counts and figures on a broker that works."""

    def left(self, bench: Bench) -> int:
        """Messages still to be delivered, of all partitions together."""
        return sum(bench.left().values())

    def test_identity_names_this_subscription_and_no_other(self, bench: Bench, tmp_path: Path) -> None:
        """The identity is filled, is the same in every survey, and differs for another subscription."""
        run = bench.options(tmp_path)
        self.fill(bench, 1)
        with opened(bench, run) as source:
            identities = [source.survey().identity, source.survey().identity]
        with opened(bench, run) as source:
            identities.append(source.survey().identity)
        assert identities[0], "the identity is empty"
        assert all(key and value for key, value in identities[0].items()), identities[0]
        assert identities[0] == identities[1] == identities[2]
        with closing(bench.other_source(run)) as other:
            assert other.survey().identity != identities[0]

    def test_partitions_are_named_as_in_a_survey(self, bench: Bench, tmp_path: Path) -> None:
        """A source that names its partitions without a survey names the same ones."""
        self.fill(bench, 1)
        with opened(bench, bench.options(tmp_path)) as source:
            if not isinstance(source, Enumerable):
                pytest.skip("this adapter names partitions by a survey")
            surveyed = [state.partition for state in source.survey().partitions]
            assert sorted(source.partitions()) == sorted(surveyed)

    def test_figures_are_true_or_unknown(self, bench: Bench, tmp_path: Path) -> None:
        """Survey and remaining report the true backlog, of every partition, or None."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            states = source.survey().partitions
            targets = {state.partition: state.end for state in states}
            assert len(targets) == bench.partitions
            check_backlog(bench, states)
            check_remaining(source, targets, MESSAGES)
        if not bench.has_figures:
            return
        self.run(bench, bench.options(tmp_path))
        for number in range(bench.partitions):
            bench.produce(number, 11)
        with opened(bench, bench.options(tmp_path)) as source:
            source.survey()
            check_remaining(source, targets, 0)
            check_remaining(source, dict.fromkeys(targets), 11)

    def test_messages_of_a_vanished_consumer_are_backlog(self, bench: Bench, tmp_path: Path) -> None:
        """What a consumer received, and did not acknowledge before it vanished, is counted and cleared."""
        self.fill(bench)
        bench.abandon(100)
        with opened(bench, bench.options(tmp_path)) as source:
            states = source.survey().partitions
            check_backlog(bench, states)
            check_remaining(source, {state.partition: state.end for state in states}, MESSAGES)
        result = self.run(bench, bench.options_after(tmp_path))
        assert self.left(bench) == 0
        assert result.totals.messages == MESSAGES * bench.partitions

    def test_skip_clears_messages_of_a_vanished_consumer(self, bench: Bench, tmp_path: Path) -> None:
        """A skip, too, clears what a consumer received and did not acknowledge before it vanished."""
        self.fill(bench)
        bench.abandon(100)
        result = self.run(bench, bench.options_after(tmp_path, mode=Mode.SKIP))
        assert self.left(bench) == 0
        assert result.verified is not False

    def test_reads_keep_their_limit(self, bench: Bench, tmp_path: Path) -> None:
        """A read counts no more than `max_messages`, and one advance for a partition."""
        self.fill(bench)
        found: list[Advance] = []
        with (
            opened(bench, bench.options(tmp_path)) as source,
            closing(source.open_lane(claims(source))) as lane,
        ):
            deadline = time.monotonic() + bench.patience_s
            while messages(found) < 50 and time.monotonic() < deadline:
                advances = lane.read(WAIT_S, 10)
                assert len({item.partition for item in advances}) == len(advances)
                assert not bench.exact_limit or messages(advances) <= 10
                found += advances
            settled = messages(lane.settle())
        assert settled == messages(found) >= 50
        assert settled + self.left(bench) == MESSAGES * bench.partitions

    def test_settle_acknowledges_what_read_returned_and_no_more(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        """After one read and a settle, the broker has lost exactly what was counted; again: nothing."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            lane = source.open_lane(claims(source))
            found = read_some(bench, lane)
            settled = lane.settle()
            assert by_partition(settled) == by_partition(found)
            assert messages(lane.settle()) == 0
            lane.close()
        assert messages(settled) + self.left(bench) == MESSAGES * bench.partitions

    def test_what_was_not_settled_stays(self, bench: Bench, tmp_path: Path) -> None:
        """Reading acknowledges nothing: a lane that closes without a settle leaves the backlog as it was."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            lane = source.open_lane(claims(source))
            read_some(bench, lane)
            lane.close()
        assert self.run(bench, bench.options_after(tmp_path)).totals.messages == (
            MESSAGES * bench.partitions
        )

    def test_reads_end_after_their_wait(self, bench: Bench, tmp_path: Path) -> None:
        """A read returns after about `max_wait_s` where nothing arrives."""
        self.fill(bench, BATCH)
        with (
            opened(bench, bench.options(tmp_path)) as source,
            closing(source.open_lane(claims(source, frozen=False))) as lane,
        ):
            read_until(bench, lane, lambda found: messages(found) == BATCH * bench.partitions)
            lane.settle()
            for _ in range(3):
                with Stopwatch() as watch:
                    advances = lane.read(WAIT_S, None)
                took = watch.seconds
                assert messages(advances) == 0
                assert took < WAIT_S + bench.wait_slack_s, f"a read of {WAIT_S} s took {took:.1f} s"

    def test_a_reached_target_is_reported_once(self, bench: Bench, tmp_path: Path) -> None:
        """Each partition is reported with nothing left once, an empty one too, and then never again."""
        for number in range(1, bench.partitions):
            bench.produce(number, BATCH)
        if bench.partitions == 1 or not bench.answers_empty:
            bench.produce(0, BATCH)
        with opened(bench, bench.options(tmp_path)) as source:
            if source.traits.competing:
                pytest.skip("lanes that compete cannot prove that a target is reached")
            asked = claims(source)
            lane = source.open_lane(asked)
            reached = {claim.partition for claim in asked}
            found = read_until(
                bench,
                lane,
                lambda found: {item.partition for item in found if item.left == 0} >= reached,
            )
            for _ in range(3):
                assert not lane.read(WAIT_S, None)
            assert Counter(item.partition for item in found if item.left == 0) == Counter(reached)
            for partition in reached:
                lefts = [item.left for item in found if item.partition == partition]
                assert lefts[-1] == 0
            lane.settle()
            lane.close()
        assert self.left(bench) == 0

    def test_following_a_partition_keeps_it(self, bench: Bench, tmp_path: Path) -> None:
        """Without a target, a partition is read on past an end that was reached; `left` is never negative."""
        self.fill(bench, BATCH)
        with opened(bench, bench.options(tmp_path)) as source:
            lane = source.open_lane(claims(source, frozen=False))
            first = read_until(bench, lane, lambda found: messages(found) == BATCH * bench.partitions)
            lane.settle()
            self.fill(bench, 11)
            then = read_until(bench, lane, lambda found: messages(found) == 11 * bench.partitions)
            lane.settle()
            lane.close()
        for item in (*first, *then):
            assert item.left is None or 0 <= item.left <= BATCH + 11
        assert self.left(bench) == 0

    def test_a_second_lane_never_moves_positions_backwards(self, bench: Bench, tmp_path: Path) -> None:
        """A lane that resumes where another one settled continues there, and counts nothing again."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            asked = claims(source)
            lane = source.open_lane(asked)
            read_until(bench, lane, lambda found: messages(found) >= 300)
            settled = lane.settle()
            lane.close()
            before = bench.left()
            places = {item.partition: item.position for item in settled}
            again = source.open_lane([replace(c, resume=places.get(c.partition)) for c in asked])
            read_some(bench, again)
            settled = [*settled, *again.settle()]
            again.close()
        left = bench.left()
        assert all(left[number] <= before[number] for number in left)
        assert messages(settled) + sum(left.values()) == MESSAGES * bench.partitions

    def test_settle_never_moves_a_position_backwards(self, bench: Bench, tmp_path: Path) -> None:
        """Where another client acknowledged more meanwhile, a settle leaves that, and counts none of it."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            claim = first_claim(source)
            lane = source.open_lane([claim])
            read_some(bench, lane)
            bench.advance(0, 500)
            settled = lane.settle()
            lane.close()
            assert bench.left()[0] <= MESSAGES - 500
            if bench.confirms and not source.traits.competing:
                assert bench.left()[0] == MESSAGES - 500
                assert messages(settled) == 0

    def test_skip_never_moves_a_position_backwards(self, bench: Bench, tmp_path: Path) -> None:
        """A skip to a target that lies before the position changes nothing."""
        if not bench.survives_skip:
            pytest.skip("this test server crashes when a skip leaves messages behind its target")
        if not bench.shows_position:
            pytest.skip("this broker does not show the position that a skip could lower")
        self.fill(bench, BATCH)
        with opened(bench, bench.options(tmp_path)) as source:
            old = claims(source)
            self.fill(bench, BATCH)
            new = claims(source)
            assert not [item.error for item in source.skip(new) if item.error]
            assert self.left(bench) == 0
            outcomes = source.skip(old)
            assert sorted(item.partition for item in outcomes) == sorted(c.partition for c in old)
        assert self.left(bench) == 0

    def test_restore_of_nothing_stored_brings_all_back(self, bench: Bench, tmp_path: Path) -> None:
        """Restoring None forgets what was stored since, or reports for each partition why it cannot."""
        self.fill(bench)
        with opened(bench, bench.options(tmp_path)) as source:
            states = source.survey().partitions
            if any(state.position is not None for state in states):
                pytest.skip("a new subscription has positions here")
            source.skip(claims(source))
            assert self.left(bench) == 0
            outcomes = source.restore([Recorded(s.partition, None, s.incarnation) for s in states])
            assert sorted(o.partition for o in outcomes) == sorted(s.partition for s in states)
        failed = {item.partition.number for item in outcomes if item.error}
        assert not failed or not bench.exact_restore
        assert [count for count in bench.left().values() if count] == [MESSAGES] * (
            bench.partitions - len(failed)
        )

    def test_a_refused_partition_does_not_end_the_others(self, bench: Bench, tmp_path: Path) -> None:
        """A partition whose position is refused has an error and counts nothing; the others are settled."""
        self.fill(bench, BATCH)
        with opened(bench, bench.options(tmp_path)) as source:
            asked = claims(source)
            lane = source.open_lane(asked)
            read_until(bench, lane, lambda found: len(by_partition(found)) == bench.partitions)
            with bench.refusing(0):
                settled = lane.settle()
                lane.close()
                errors = {item.partition for item in settled if item.error}
                assert asked[0].partition in errors
                assert not by_partition(settled).keys() & errors
                assert messages(settled) + self.left(bench) == BATCH * bench.partitions
                outcomes = source.skip(asked)
                assert {item.partition for item in outcomes if item.error} == errors
                refused = {partition.number for partition in errors}
                assert {number for number, count in bench.left().items() if count} == refused


def first_claim(source: Source) -> Claim:
    """A claim on the partition with the lowest number."""
    return claims(source)[0]


def check_backlog(bench: Bench, states: Sequence[PartitionState]) -> None:
    """Every backlog is the true one, or unknown where the broker gives no figure."""
    for state in states:
        if not bench.has_figures:
            assert state.backlog in {None, MESSAGES}, state
        elif bench.unit_is_messages:
            assert state.backlog == MESSAGES, state
        else:
            assert state.backlog != 0, state


def check_remaining(source: Source, targets: Mapping[Partition, Position | None], true: int) -> None:
    """One answer for each target, that is true or None."""
    found = source.remaining(targets)
    assert sorted(item.partition for item in found) == sorted(targets)
    for item in found:
        assert item.left in {None, true}, item
