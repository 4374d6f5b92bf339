"""The whole fan-out on real Kafka: dispatched, killed, delivered twice, and exact in the end."""

from __future__ import annotations

from pathlib import Path

from backlog_clearer.testing.servers.cloud_tasks import CloudTasks
from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge
from backlog_clearer.testing.support import wait_until
from tests.command import cleaner
from tests.functions.gcp_bundle import Bundle, deployed

PARTITIONS, EACH, SLICES = 32, 156_250, 8  # 5,000,000 messages
VICTIM = 3
BEFORE = {number: 1000 + number for number in range(PARTITIONS)}


def _kill_midway(bundle: Bundle) -> None:
    """Kill the instance that drains one slice once the broker has a first commit of it, and not all."""
    numbers = range(VICTIM, PARTITIONS, SLICES)

    def midway() -> bool:
        committed = bundle.judge.committed(bundle.topic, bundle.group)
        done = sum((committed[number] or 0) - BEFORE[number] for number in numbers)
        assert done < (EACH - 1000) * len(numbers) - 6 * PARTITIONS, "too late to be killed midway"
        return done > 0

    wait_until(midway, f"a commit of slice {VICTIM}", 120)
    for call in bundle.tasks.calls:
        if call.body["slice"] == VICTIM and call.status is None and call.server is not None:
            call.server.stop()


def test_eight_slices_in_eight_processes(judge: Judge, kafka: KafkaCluster, tmp_path: Path) -> None:
    """5M messages in 32 partitions, a slice killed midway, one delivered twice: empty, exact, undoable."""
    # The client reader in small batches, so that there is a midway to be killed in.
    slow = {"options": {"reader": "client"}, "workers": 1, "batch_size": 20}
    slices = {"messages_per_slice": EACH * PARTITIONS // SLICES, "max_slices": SLICES}
    with deployed(
        judge, tmp_path, CloudTasks(twice=1, at_once=SLICES + 1),
        partitions=PARTITIONS, each=EACH, instances=SLICES, **slow, **slices,
    ) as bundle:  # fmt: skip
        judge.commit(bundle.topic, bundle.group, BEFORE)
        made = bundle.call(bundle.dispatch, {"backlog": "orders"}).json()
        assert made["slices"] == SLICES
        _kill_midway(bundle)
        judge.produce(bundle.topic, VICTIM, 7)  # what comes after the run began is not its business
        bundle.settled()
        calls = bundle.tasks.calls
        assert {call.status for call in calls if call.body["slice"] != VICTIM} == {200}
        of_victim = [call.status for call in calls if call.body["slice"] == VICTIM]
        assert None in of_victim
        assert of_victim[-1] == 200
        offsets = kafka.group_offsets(bundle.group)
        expected = {number: 7 if number == VICTIM else 0 for number in range(PARTITIONS)}
        assert {key[1]: item.lag for key, item in offsets.items()} == expected
        account = bundle.account(made["run_id"])
        assert account["verdict"] == "cleared"
        gone = {row["partition"]: row["backlog"] - row["remaining"] for row in account["partitions"]}
        assert gone == {number: EACH - before for number, before in BEFORE.items()}
        assert account["gone"] == made["backlog"] == sum(gone.values())
    undone = cleaner("restore", "--run", made["run_id"], "--receipt-dir", bundle.receipts, "--yes")
    assert undone.code == 0, undone.stderr
    offsets = kafka.group_offsets(bundle.group)
    assert {key[1]: item.current for key, item in offsets.items()} == BEFORE
