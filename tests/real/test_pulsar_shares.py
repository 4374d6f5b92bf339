"""Jobs that share one partition of a Shared Pulsar subscription: one of them proves the end for all."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.run.report import Verdict
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Judge, unique
from backlog_clearer.testing.support import wait_until
from tests.command import cleaner, ended, job_started

EACH, SLICES = 9000, 3
RATE = 1500  # messages a second, so that all three get some
RUN = "night-8"


@pytest.mark.parametrize("kind", ["shared", "key_shared"])
def test_three_jobs_share_one_partition(pulsar_judge: Judge, tmp_path: Path, kind: str) -> None:
    """Every message is acknowledged by one of three jobs, one is killed, and the run is cleared and undone."""
    namespace = f"public/{unique('shares')}"
    pulsar_judge.keep(namespace)
    pulsar_judge.slow_down(namespace, RATE)
    topic = pulsar_judge.create(f"persistent://{namespace}/{unique('log')}", 1)
    part = f"{topic}-partition-0"
    pulsar_judge.produce(part, EACH)
    receipts = str(tmp_path / "receipts")
    options = {
        "service_url": pulsar_judge.server.service_url, "admin_url": pulsar_judge.server.admin_url,
        "topic": topic, "subscription": SUBSCRIPTION, "subscription_type": kind,
    }  # fmt: skip
    config = tmp_path / "config.json"
    entry = {"system": "pulsar", "options": options, "workers": 1}
    config.write_text(json.dumps({"receipts": receipts, "backlogs": {"orders": entry}}))

    def env(index: int) -> dict[str, str]:
        return {
            "JOB_COMPLETION_INDEX": str(index), "BACKLOG_CLEARER_TOTAL": str(SLICES),
            "BACKLOG_CLEARER_RUN_ID": RUN,
        }  # fmt: skip

    with ExitStack() as stack:
        jobs = [
            stack.enter_context(job_started(str(config), "--backlog", "orders", env=env(index)))
            for index in range(SLICES)
        ]
        wait_until(lambda: len(pulsar_judge.stats(part)["consumers"]) == SLICES, "three consumers")
        wait_until(lambda: pulsar_judge.backlog(part) < EACH, "a first acknowledgement")
        jobs.pop(1).kill()
        jobs.append(stack.enter_context(job_started(str(config), "--backlog", "orders", env=env(1))))
        done = [ended(job) for job in jobs]
    assert [each.code for each in done] == [0] * SLICES, [each.stderr for each in done]
    assert pulsar_judge.backlog(part) == 0
    assert run_status(receipts, RUN).verdict is Verdict.CLEARED
    undone = cleaner("restore", "--run", RUN, "--receipt-dir", receipts, "--yes")
    assert undone.code == 0, undone.stderr
    assert pulsar_judge.backlog(part) == EACH
