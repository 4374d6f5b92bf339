"""Clear a million messages, undo that, skip them: each step is a command as a user types it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from backlog_clearer.testing.servers.embedded_kafka import EmbeddedKafka

MESSAGES = 1_000_000
TOPIC, GROUP, PARTITIONS = "orders", "billing", 8
ROOT = Path(__file__).parent.parent


def cleaner(*args: str) -> None:
    """Show a command, run it, and end the demonstration if it fails."""
    print(f"\n$ python cleaner.py {shlex.join(args)}", flush=True)
    done = subprocess.run(  # noqa: S603 our own command line
        [sys.executable, "cleaner.py", *args], cwd=ROOT, check=False
    )
    if done.returncode != 0:
        sys.exit(f"The demonstration failed: the command above exited with {done.returncode}.")


def main() -> None:
    """Start the broker, fill a topic, and go through status, clear, restore and skip."""
    with EmbeddedKafka() as broker, tempfile.TemporaryDirectory(prefix="receipts-") as receipts:
        print(f"An embedded Kafka-compatible broker runs at {broker.bootstrap_servers}.")
        broker.create_topic(TOPIC, PARTITIONS)
        print(f"Publishing {MESSAGES:,} messages of 100 bytes to {PARTITIONS} partitions …", flush=True)
        broker.produce(TOPIC, MESSAGES)
        group = ("--bootstrap-servers", broker.bootstrap_servers, "--topic", TOPIC, "--group-id", GROUP)
        keep = ("--receipt-dir", receipts, "--yes")
        cleaner("status", "kafka", *group)
        cleaner("kafka", *group, "--workers", "4", "--stop-when-empty", *keep)
        cleared = _clearing_receipt(Path(receipts))
        cleaner("restore", str(cleared), *keep)
        cleaner("status", "kafka", *group)
        cleaner("kafka", *group, "--mode", "skip", *keep)
        print("\nThe broker of this demonstration and its receipts are deleted now; others are kept.")


def _clearing_receipt(folder: Path) -> Path:
    """The receipt of the run that cleared."""
    (path,) = folder.rglob("*.json")
    if json.loads(path.read_text())["action"] != "clear":
        raise RuntimeError(f"{path} is not the receipt of a clear.")
    return path


if __name__ == "__main__":
    main()
