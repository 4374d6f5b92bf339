"""Real Pulsar behind an admin API that fails for some partitions, briefly or permanently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from backlog_clearer.brokers.pulsar.source import PulsarSource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError, ClearerError
from backlog_clearer.model import Mode, Partition, Position, Remaining
from backlog_clearer.run import retry
from backlog_clearer.run.clear import clear_source
from backlog_clearer.run.job import Callbacks, Job
from backlog_clearer.run.verdict import sentence
from backlog_clearer.testing.servers.pulsar_judge import KEPT, Case, Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.functions.flaky import SILENCE, flaky

PARTITIONS, EACH = 24, 5
BAD = 7  # the partition that fails
SERVICE_UNAVAILABLE = 503
AT_ONCE = 8  # requests that may be in flight when it stops answering


class Gate:
    """Faults of requests to the admin API."""

    def __init__(self) -> None:
        self.fails: dict[str, int] = {}  # how often a request fails, by the end of its path
        self.silent_after = 0  # requests; 0: never
        self.wrong_from = 0  # the first request that gets `wrong`; 0: none
        self.wrong = 200  # status of the answer, or `SILENCE`
        self.requests = 0

    def fault(self, _method: str, path: str, _body: bytes) -> int | None:
        """See `Fault`."""
        self.requests += 1
        if self.silent_after and self.requests > self.silent_after:
            return SILENCE
        if self.wrong_from and self.requests >= self.wrong_from:
            return self.wrong
        for end in self.fails:
            if path.partition("?")[0].endswith(end) and self.fails[end] > 0:
                self.fails[end] -= 1
                return SERVICE_UNAVAILABLE
        return None


@pytest.fixture(scope="module")
def wide(pulsar_judge: Judge) -> str:
    """A topic of many partitions with messages, which are kept: tests clear it again and again."""
    topic = pulsar_judge.create(f"persistent://{KEPT}/{unique('wide')}", PARTITIONS)
    for number in range(PARTITIONS):
        pulsar_judge.produce(f"{topic}-partition-{number}", EACH)
    return topic


@pytest.fixture
def way(pulsar_case: Case, wide: str) -> Iterator[Gate]:
    """A topic of many partitions, each with a backlog, and a gate to the admin API."""
    pulsar_case.topic = wide
    for number, backlog in backlogs(pulsar_case).items():
        if backlog != EACH:
            pulsar_case.judge.rewind(f"{wide}-partition-{number}")
    wait_until(lambda: set(backlogs(pulsar_case).values()) == {EACH}, "the whole backlog")
    gate, reason = Gate(), b'{"reason": "The bundle is being unloaded"}'
    with flaky(pulsar_case.judge.server.web, gate.fault, reason) as port:
        pulsar_case.changes["admin_url"] = f"http://127.0.0.1:{port}"
        yield gate


def backlogs(case: Case) -> dict[int, int]:
    """Messages that the broker still has to deliver, by partition."""
    parts = {number: f"{case.topic}-partition-{number}" for number in range(PARTITIONS)}
    return {number: case.judge.backlog(part) for number, part in parts.items()}


def left(case: Case) -> dict[int, int]:
    """Messages that the broker still has to deliver, by partition, where there are any."""
    return {number: backlog for number, backlog in backlogs(case).items() if backlog}


@pytest.mark.parametrize("mode", Mode)
def test_a_partition_that_fails_for_a_moment_is_asked_again(
    pulsar_case: Case, way: Gate, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures that are not returned at first are asked for again, and everything is cleared."""
    monkeypatch.setattr(retry, "PATIENCE_S", 60.0)  # a busy machine's broker may be slow
    way.fails[f"-partition-{BAD}/stats"] = 2
    result = pulsar_case.clear(mode=mode)
    assert result.cleared, str(result)
    assert (left(pulsar_case), way.fails) == ({}, {f"-partition-{BAD}/stats": 0})


@pytest.mark.parametrize("mode", Mode)
def test_a_partition_that_keeps_failing_is_left(pulsar_case: Case, way: Gate, mode: Mode) -> None:
    """The partition keeps its backlog and shows the broker's reason; all others are cleared: not a success."""
    way.fails[f"-partition-{BAD}/internalStats"] = 1000
    result = pulsar_case.clear(mode=mode)
    assert left(pulsar_case) == {BAD: EACH}
    errors = {row.partition: row.error for row in result.partitions if row.error}
    assert list(errors) == [BAD]
    assert "The bundle is being unloaded" in errors[BAD]
    assert (result.cleared, result.verified) == (False, None)


class Muted(PulsarSource):
    """A source whose admin API answers nothing more once its lanes have ended."""

    gate: Gate

    def remaining(self, targets: Mapping[Partition, Position | None]) -> Sequence[Remaining]:
        """See `Source`."""
        if not self._acknowledgements.lanes:
            self.gate.wrong_from, self.gate.wrong = 1, SERVICE_UNAVAILABLE
        return super().remaining(targets)


@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_a_count_that_the_broker_does_not_confirm_is_an_upper_bound(
    pulsar_case: Case, way: Gate, kind: str
) -> None:
    """Without an answer at the end, acknowledgements may be lost: the result says "at most"."""
    pulsar_case.changes["subscription_type"] = kind
    run = pulsar_case.run(workers=2)
    job = Job("pulsar", pulsar_case.options(), run)
    source = Muted(pulsar_case.options(), run, job.run_id)
    source.gate = way
    with closing(source):
        result = clear_source(source, job, Callbacks(), Halt())
    assert left(pulsar_case) == {}
    assert (result.totals.messages, result.totals.at_most) == (PARTITIONS * EACH, True)
    assert (result.totals.at_least, result.verified) == (False, None)
    assert f"at most {PARTITIONS * EACH} messages" in sentence(result)


def test_a_partition_that_is_not_moved_is_named(pulsar_case: Case, way: Gate) -> None:
    """A skip that the broker refuses for one partition moves all others, and reports which is left."""
    way.fails[f"-partition-{BAD}/subscription/billing/resetcursor"] = 1000
    result = pulsar_case.clear(mode=Mode.SKIP)
    assert left(pulsar_case) == {BAD: EACH}
    assert [row.partition for row in result.partitions if row.error] == [BAD]
    assert (result.cleared, result.verified) == (False, False)


@pytest.mark.usefixtures("way")
def test_each_partition_is_restored_to_its_own_position(pulsar_case: Case) -> None:
    """Partitions moved in parallel are restored, each exactly to its own position."""

    def positions() -> list[str]:
        parts = [f"{pulsar_case.topic}-partition-{number}" for number in range(PARTITIONS)]
        return [pulsar_case.judge.mark_delete(part) for part in parts]

    before = positions()
    skipped = pulsar_case.clear(mode=Mode.SKIP)
    assert (skipped.cleared, left(pulsar_case)) == (True, {})
    assert pulsar_case.restore(skipped).cleared
    assert (positions(), left(pulsar_case)) == (before, dict.fromkeys(range(PARTITIONS), EACH))


def test_an_api_that_stops_answering_is_not_asked_further(pulsar_case: Case, way: Gate) -> None:
    """Where the API stops answering, the remaining partitions are not asked, and nothing moves."""
    way.silent_after = 6
    with pytest.raises(BrokerError, match="does not answer"):
        pulsar_case.clear(mode=Mode.SKIP)
    assert way.requests <= way.silent_after + AT_ONCE + retry.ATTEMPTS
    assert left(pulsar_case) == dict.fromkeys(range(PARTITIONS), EACH)


@pytest.mark.parametrize(
    "answer", [(200, b"{}"), (204, b""), (SILENCE, b"")], ids=["empty object", "empty", "silence"]
)
@pytest.mark.parametrize("mode", Mode)
def test_no_wrong_answer_makes_a_false_verdict(
    pulsar_judge: Judge,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: Mode,
    answer: tuple[int, bytes],
) -> None:
    """From whichever request on the API answers wrongly: nothing that is left is cleared, verified or 0."""
    monkeypatch.setattr(retry, "ATTEMPTS", 1)
    gate, case = Gate(), Case(pulsar_judge, tmp_path)
    gate.wrong, body = answer
    pulsar_judge.produce(case.create(), EACH)
    with flaky(pulsar_judge.server.web, gate.fault, body) as port:
        # A failover subscription delivers after a second, which is as long as a stall here.
        case.changes |= {"admin_url": f"http://127.0.0.1:{port}", "subscription_type": "exclusive"}
        while gate.requests >= gate.wrong_from:  # until a run has ended before the fault
            gate.wrong_from += 1
            pulsar_judge.rewind(case.topic)
            wait_until(lambda: pulsar_judge.backlog(case.topic) == EACH, "the whole backlog")
            gate.requests = 0
            with suppress(ClearerError):
                assert case.status().totals.backlog in (None, EACH)
            gate.requests = 0
            cleared = False
            with suppress(ClearerError):
                result = case.clear(mode=mode, max_retries=0, stall_seconds=1, quiet_seconds=1)
                cleared = result.cleared or bool(result.verified)
            assert not (cleared and pulsar_judge.backlog(case.topic)), gate.wrong_from
    assert cleared
    assert gate.wrong_from > 5
