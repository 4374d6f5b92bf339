"""One Pub/Sub subscription drained by 1, 2, 4 and 8 invocations at once, and by 8 of which one is killed.

The first part limits a stream to 10 MB/s, as the service does: each invocation is a separate process with one
stream, and reads its part of the messages. The second part is a run of eight slices on a server that keeps
every message: one is killed, and one is started twice; then every message has to be acknowledged, the run's
status has to be cleared, and there has to be one snapshot.

    python -m bench.pubsub_shares [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backlog_clearer.fanout.run_status import run_status
from backlog_clearer.run.report import Verdict
from backlog_clearer.testing.servers.pubsub import PubSubServer
from bench.processes import ROOT
from bench.pubsub import OURS, run, serving

RUN, SLICES = "bench", 8
STREAM_MB_S = 10.0


def rates(messages: int) -> None:
    """A line for each number of invocations."""
    print(f"{STREAM_MB_S:.0f} MB/s a stream, one stream an invocation")
    alone = 0.0
    for invocations in (1, 2, 4, 8):
        with serving(STREAM_MB_S * 1e6) as env, ThreadPoolExecutor(invocations) as pool:
            parts = [pool.submit(run, OURS, env, messages, 1) for _ in range(invocations)]
            rate = sum(part.result().rate for part in parts)
        alone = alone or rate
        print(
            f"  {invocations} invocations  {rate:10,.0f}/s  {rate / alone:4.1f} times one", flush=True
        )


def shares(messages: int) -> None:
    """Eight slices of a run, one of them killed and one started twice."""
    with PubSubServer() as server, tempfile.TemporaryDirectory() as folder:
        server.truthful()
        server.second_s = 0.1  # what a killed process held comes back within seconds
        sub = server.create("billing")
        server.publish(sub, messages)
        reach = {
            "project_id": "test",
            "subscription_id": "billing",
            "monitoring_endpoint": f"http://{server.address}",
        }
        entry = {"system": "googlepubsub", "options": reach, "workers": 1}
        receipts = str(Path(folder) / "receipts")
        env = {
            **os.environ,
            "PUBSUB_EMULATOR_HOST": server.address,
            "BACKLOG_CLEARER_CONFIG": json.dumps({"receipts": receipts, "backlogs": {"bills": entry}}),
            "BACKLOG_CLEARER_RUN_ID": RUN,
            "BACKLOG_CLEARER_TOTAL": str(SLICES),
        }

        def start(index: int) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "functions.job.main", "--backlog", "bills"],
                cwd=ROOT,
                env={**env, "JOB_COMPLETION_INDEX": str(index)},
                stdout=subprocess.DEVNULL,
            )

        begun = time.monotonic()
        jobs = [start(index) for index in range(SLICES)]
        while sub.unacked() > messages * 0.7:
            time.sleep(0.2)
        jobs.pop(3).kill()
        jobs += [start(3), start(5)]
        while sub.unacked():
            time.sleep(0.2)
        seconds = time.monotonic() - begun
        codes = [job.wait() for job in jobs]
        status = run_status(receipts, RUN)
        print(
            f"{messages:,} messages by {SLICES} slices, one killed and one started twice: all acknowledged"
            f" after {seconds:.0f} s; exit codes {codes}; run {status.verdict};"
            f" {len(server.snapshots)} snapshot"
        )
        if (
            codes != [0] * len(jobs)
            or status.verdict is not Verdict.CLEARED
            or len(server.snapshots) != 1
        ):
            raise SystemExit("the run does not hold together")


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the messages")
    scale = 50 if parser.parse_args().quick else 1
    rates(1_000_000 // scale)
    shares(1_000_000 // scale)


if __name__ == "__main__":
    main()
