"""Which tests share an xdist worker, and in which order the workers take them.

Tests of one file share a worker, and so do some of those that use the same real broker, which then starts
once for them. All of them together would take longer than everything else beside them. What takes longest
starts first, so that the workers end at about the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from xdist.scheduler import LoadScopeScheduling

_SEPARATE = frozenset(
    {
        "test_aws_batch",
        "test_eventhubs_kafka",
        "test_fanout",
        "test_googlepubsub",
        "test_kafka_cluster",
        "test_kafka_faults",
        "test_pulsar_cluster",
        "test_pulsar_faults",
        "test_pulsar_security",
    }
)
"""Files of tests/real that start separate servers, or take so long that a worker has only them."""

_BY_CLASS = frozenset({"test_memory"})
"""Files without a server whose tests mostly wait: each class may be on another worker."""

_TOGETHER: Mapping[str, str] = {
    "test_pulsar_contract": "real pulsar contract",
    "test_pulsar_admin_faults": "real pulsar faults",
    "test_pulsar_gaps": "real pulsar faults",
    "test_pulsar_lasting": "real pulsar faults",
    "test_pulsar_transactions": "real pulsar faults",
    "test_kafka_damaged_answers": "real kafka faults",  # those with three nodes, and some more
    "test_kafka_identity": "real kafka faults",
    "test_kafka_killed_broker": "real kafka faults",
    "test_kafka_lost_answers": "real kafka faults",
}
"""Groups of files of tests/real with a broker for themselves; the others share one of each kind."""

_SECONDS: Mapping[str, float] = {
    "real kafka": 340,
    "real pulsar contract": 300,
    "real kafka faults": 280,
    "real pulsar": 260,
    "real pulsar faults": 250,
    "test_pulsar_cluster": 240,
    "test_kafka_cluster": 200,
    "test_aws_batch": 180,
    "test_modules": 150,
    "test_googlepubsub": 140,
    "test_pulsar_lite": 120,
    "test_pulsar_security": 120,
    "test_kafka_faults": 120,
    "test_pulsar_faults": 120,
    "test_eventhubs": 100,
    "test_kafka_contract": 100,
    "test_iggy": 90,
    "test_azure": 65,
    "test_eventhubs_faults": 60,
    "test_googlepubsub_proof": 60,
    "test_image": 60,
    "test_job_queue": 60,
    "test_bundles": 55,
    "test_storage_queue": 55,
    "test_eventhubs_kafka": 55,
    "test_memory": 50,
    "test_fanout": 35,
    "test_static_scan": 35,
    "test_identity": 35,
    "test_streams": 20,
    "test_engine_faults": 17,
    "test_limit_lost_answers": 17,
    "test_engine_clocks": 15,
    "test_cli_watch": 15,
    "test_engine": 14,
    "test_run": 13,
    "test_stopping": 9,
    "test_early": 8,
    "test_layers": 8,
    "test_engine_isolation": 7,
    "test_cli_completion": 7,
    "test_secrets": 6,
}
"""Measured; only the order depends on it. Everything else takes less."""


def scope_of(nodeid: str) -> str:
    """The name of the group of tests that runs on one worker."""
    path = PurePath(nodeid.partition("::")[0])
    if path.stem in _BY_CLASS:
        return "::".join(nodeid.split("::")[:2])
    if path.parent.name != "real" or path.stem in _SEPARATE:
        return str(path)
    return _TOGETHER.get(path.stem, "real pulsar" if "pulsar" in path.name else "real kafka")


def seconds_of(nodeid: str) -> float:
    """About how long the group of a test takes."""
    scope = scope_of(nodeid)
    return _SECONDS.get(PurePath(scope.partition("::")[0]).stem, 0)


class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # the library ships no types
    """Hands out the groups in the order of the collection.

    `--dist loadgroup` would do that by marks, but has no effect in pytest 9.2 (xdist 3.8).
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)

    def remove_node(self, node: Any) -> str | None:
        """Give the rest of a crashed worker to the others; the test that crashed has failed.

        The library's own method hands out finished groups again: a worker that gets one waits forever.
        It also repeats the test that crashed, once for each worker that may be started again.
        """
        work = self.assigned_work.pop(node)
        pending = (nodeid for unit in work.values() for nodeid, done in unit.items() if not done)
        crashed: str | None = next(pending, None)
        if crashed is None:
            return None
        for scope, unit in work.items():
            if crashed in unit:
                unit[crashed] = True
            if not all(unit.values()):
                self.workqueue[scope] = unit
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def schedule(self) -> None:
        """Like the library's; a worker that was started again gets at once what follows its group.

        It runs a test only when it has the next one, or the message that there is none.
        """
        again = self.collection is not None
        super().schedule()
        if again:
            super().schedule()
