"""`status --watch` in separate processes, ended by a signal as users do."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pytest

from backlog_clearer.cli.watch_texts import eta_text
from backlog_clearer.run.watch import WatchedBacklog
from tests.invoking import call
from tests.paths import MODULE_PATH

BACKLOG = ("--topic", "orders", "--group-id", "billing")
FIGURES = r"backlog [\d,]+ messages, arriving [\d.,]+/s, drained [\d.,]+/s, ETA \d+ s"


@contextmanager
def watching(*args: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`status … --watch 1` on `tests.watching`; killed if it outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.watching", "status", *args, "--watch", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": MODULE_PATH, **(env or {})},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def lines(stream: IO[str] | None, count: int) -> list[str]:
    """The next lines of a process, waited for."""
    assert stream is not None
    return [stream.readline().rstrip("\n") for _ in range(count)]


def ends(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """How a process ends after a signal: its exit code, and the rest of stderr."""
    process.send_signal(number)
    stderr = process.communicate(timeout=300)[1]
    return process.returncode, stderr


def without_codes(text: str) -> str:
    """What a terminal shows of a text."""
    return re.sub(r"\x1b\[[0-9?;]*[A-Za-z]", "", text)


def test_each_interval_has_a_line_until_ctrl_c(tmp_path: Path) -> None:
    """Without a terminal, lines have backlog, rates and ETA; SIGINT ends it with exit 0 and no error."""
    with watching("memory", *BACKLOG) as process:
        first, second = lines(process.stdout, 2)
        code, stderr = ends(process, signal.SIGINT)
    start = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ group billing on topic orders: "
    assert re.match(
        start + "backlog 1,920 messages, arriving unknown, drained unknown, ETA unknown", first
    )
    assert re.match(start + FIGURES, second)
    assert code == 0
    assert "Error" not in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "receipts").exists()


def test_json_has_an_object_a_line_and_a_failed_look_does_not_end_it() -> None:
    """The second look fails: it is an object with an error, the third one has rates; SIGTERM ends it with 0."""
    with watching("memory", *BACKLOG, "--output", "json", env={"FAIL": "2"}) as process:
        found = [WatchedBacklog.model_validate_json(line) for line in lines(process.stdout, 3)]
        code, stderr = ends(process, signal.SIGTERM)
    first, failed, last = found
    assert (first.backlog, first.arrival_per_second, first.error) == (1920, None, None)
    assert (failed.error, failed.backlog, failed.partitions) == (
        "the broker refused this look",
        None,
        (),
    )
    assert last.backlog == 1760
    assert last.seconds is not None
    assert last.arrival_per_second == pytest.approx(240 / last.seconds, rel=0.01)
    assert last.drain_per_second == pytest.approx(400 / last.seconds, rel=0.01)
    assert last.eta_seconds == pytest.approx(1760 * last.seconds / 160, rel=0.01)
    assert [row.position for row in last.partitions] == [300, 300]
    assert code == 0
    assert "Error" not in stderr
    assert "Traceback" not in stderr


def test_it_ends_where_nothing_reads_its_lines() -> None:
    """Once the reader of a pipe is gone, as with `| head -1`, it ends with exit 0."""
    with watching("memory", *BACKLOG) as process:
        assert lines(process.stdout, 1)
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=300) == 0


def test_a_terminal_shows_a_table_that_is_updated() -> None:
    """At a terminal each look redraws one table, the sums first; Ctrl-C leaves it there, and exits with 0."""
    env = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "FAIL": "2"}
    with watching("memory", *BACKLOG, env=env) as process:
        seen = ""
        while not re.search(FIGURES.replace("backlog", "Backlog"), without_codes(seen)):
            (line,) = lines(process.stdout, 1)
            assert process.poll() is None, seen
            seen += line + "\n"
        code, _ = ends(process, signal.SIGINT)
    plain = without_codes(seen)
    assert "Error: the broker refused this look" in plain
    assert re.search(r"partition +position +end +backlog +arriving +drained", plain)
    assert "\x1b[1A" in seen  # the cursor goes up, to redraw
    assert code == 0


def test_metrics_follow_the_looks(tmp_path: Path) -> None:
    """With --metrics-file the file has the backlog of the newest look, and that of the last one at the end."""
    pytest.importorskip("prometheus_client")
    path = tmp_path / "metrics.prom"
    with watching("memory", *BACKLOG, "--output", "json", "--metrics-file", str(path)) as process:
        shown = [json.loads(line)["backlog"] for line in lines(process.stdout, 2)]
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=300)[0]
    shown += [json.loads(line)["backlog"] for line in rest.splitlines()]
    found = re.search(r"^backlog_clearer_backlog\{.*\} ([\d.]+)$", path.read_text(), re.MULTILINE)
    assert found is not None
    assert float(found[1]) == shown[-1]
    assert process.returncode == 0


def test_a_named_backlog_is_watched() -> None:
    """`status NAME --watch` looks at the backlog that the configuration names."""
    options = {"topic": "orders", "group_id": "billing"}
    config = {"receipts": "receipts", "backlogs": {"shop": {"system": "memory", "options": options}}}
    with watching("shop", env={"BACKLOG_CLEARER_CONFIG": json.dumps(config)}) as process:
        (line,) = lines(process.stdout, 1)
        code, _ = ends(process, signal.SIGINT)
    assert "group billing on topic orders: backlog 1,920 messages" in line
    assert code == 0


def test_several_are_watched_with_a_line_for_each(tmp_path: Path) -> None:
    """Each interval has a line for each group; one that does not exist, or fails, does not end the others."""
    several = ("--topic", "orders", "--group-id", "billing,shipping")
    metered = ("--metrics-file", str(tmp_path / "m.prom")) if find_spec("prometheus_client") else ()
    with watching("memory", *several, *metered, "--output", "json") as process:
        found = [WatchedBacklog.model_validate_json(line) for line in lines(process.stdout, 4)]
        code, _ = ends(process, signal.SIGINT)
    assert [item.name for item in found] == ["billing", "shipping"] * 2
    assert [item.error for item in found] == [None] * 4
    assert None not in {found[2].arrival_per_second, found[2].drain_per_second}
    assert found[3].drain_per_second == 0  # nothing is stored for this group
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == (["m-billing.prom", "m-shipping.prom"] if metered else [])
    assert code == 0


def test_a_topic_that_does_not_exist_is_not_waited_for() -> None:
    """A mistyped name ends at the first look, with exit 2 and its error."""
    with watching("memory", "--topic", "odrers", "--group-id", "billing") as process:
        stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stdout) == (2, "")
    assert "There is no topic 'odrers'" in stderr


@pytest.mark.parametrize("given", ["0", "often", "nan", "-5", "86401"])
def test_an_interval_that_is_not_possible_is_wrong_use(given: str) -> None:
    """`--watch` takes seconds from one to a day; the error does not repeat what was given."""
    done = call("status", "kafka", "--watch", given)
    assert done.exit_code == 2
    assert "--watch is a number of seconds from 1 to 86,400." in done.stderr


@pytest.mark.parametrize(
    ("backlog", "change", "expected"),
    [
        (1000, -10.0, "ETA 100 s"),
        (0, 0.0, "ETA 0 s"),
        (1000, 10.0, "not shrinking"),
        (1000, None, "ETA unknown"),
        (None, -10.0, "ETA unknown"),
    ],
)
def test_an_eta_is_spelled(backlog: int | None, change: float | None, expected: str) -> None:
    """A backlog that grows has no ETA, which is not the same as an unknown one."""
    assert eta_text(backlog, change) == expected
