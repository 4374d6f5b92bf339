"""Signals in the first moments of a process: it ends in order, and has changed nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backlog_clearer.early import INTERRUPTED
from backlog_clearer.errors import RefusedError, UsageError
from backlog_clearer.run.report import failure_json
from tests.command import CLEANER
from tests.paths import MODULE_PATH, ROOT

COMMAND = (
    str(CLEANER),
    "status",
    "kafka",
    "--bootstrap-servers",
    "127.0.0.1:1",
    "--topic",
    "t",
    "--group-id",
    "g",
)
INSTALLED = ("-m", "backlog_clearer", *COMMAND[1:])
JOB = ("-m", "functions.job.main", "--backlog", "orders")
ANSWER = json.loads(failure_json(RefusedError(INTERRUPTED)))


def environment(*folders: Path) -> dict[str, str]:
    """Where a process finds the modules, and first those in some folders."""
    path = os.pathsep.join([*map(str, folders), MODULE_PATH])
    return {**os.environ, "PYTHONPATH": path, "BACKLOG_CLEARER_CONFIG": "{}"}


@pytest.mark.parametrize(
    ("args", "module", "number"),
    [
        (COMMAND, "click", signal.SIGINT),
        (COMMAND, "rich.console", signal.SIGTERM),
        (COMMAND, "backlog_clearer.cli.actions", signal.SIGHUP),
        (INSTALLED, "pydantic", signal.SIGTERM),
        (JOB, "argparse", signal.SIGTERM),
        (JOB, "pydantic", signal.SIGINT),
    ],
)
@pytest.mark.parametrize("output", ["text", "json"])
def test_a_signal_while_modules_load_is_an_interrupt(
    tmp_path: Path, args: tuple[str, ...], module: str, number: signal.Signals, output: str
) -> None:
    """It ends the process with the exit code and the answer of an interrupt, without a traceback."""
    if args is JOB and output == "text":
        return  # a job always answers with JSON
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "class Finder:\n"
        "    @staticmethod\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        f"            os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    chosen = () if args is JOB else ("--output", output)
    done = subprocess.run(
        [sys.executable, *args, *chosen],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, f"Error: {INTERRUPTED}\n")
    if output == "json":
        assert json.loads(done.stdout) == ANSWER
    else:
        assert done.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_after_the_interpreter_has_started_is_an_interrupt(
    tmp_path: Path, number: signal.Signals
) -> None:
    """From the first line of the program on, whenever the signal comes, there are exit code and JSON."""
    (tmp_path / "sitecustomize.py").write_text(  # the program begins when this is done
        "import sys\n"
        "def begun(event, args):\n"
        "    if event == 'import' and args[0] == 'backlog_clearer.cli.commands' and not done:\n"
        "        done.append(1); sys.__stderr__.write('begun\\n'); sys.__stderr__.flush()\n"
        "done = []\n"
        "sys.addaudithook(begun)\n"
    )
    for delay_s in (0.0, 0.02, 0.1, 0.3):
        with subprocess.Popen(
            [sys.executable, *COMMAND, "--output", "json"],
            cwd=ROOT,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "begun\n"
            time.sleep(delay_s)  # whatever is loaded by then
            process.send_signal(number)
            stdout, stderr = process.communicate(timeout=300)
        assert "Traceback" not in stderr
        assert (process.returncode, json.loads(stdout)["kind"]) in {
            (1, "RefusedError"),
            (1, "BrokerError"),  # nothing listens there: it was faster
            (1, "TransientError"),
        }


def test_a_hangup_that_was_ignored_stays_ignored(tmp_path: Path) -> None:
    """Under nohup a closing terminal does not end the command while it loads."""
    (tmp_path / "sitecustomize.py").write_text(
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    )
    code = (
        "import signal; from backlog_clearer.early import end_on_signals;"
        " end_on_signals(json=True); signal.raise_signal(signal.SIGHUP); print('continues')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(tmp_path),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "continues")


STUCK = """
import ctypes, sys
from backlog_clearer import registry
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.cli.commands import main
from tests import memory_system

registry.SYSTEMS["memory"] = memory_system.SYSTEM
memory_system.BROKER.create("orders", 3)
memory_system.BROKER.produce("orders", 0, 10)
def stuck(source, *args):
    mutex = ctypes.create_string_buffer(64)  # a new one, on Linux: to lock it twice waits forever
    lock = ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    sys.stderr.write("stuck\\n")
    sys.stderr.flush()
    lock(mutex)
setattr(MemorySource, sys.argv.pop(1), stuck)
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another kind of mutex")
def test_an_interrupt_ends_a_survey_whose_library_does_not_return() -> None:
    """A call that Python cannot interrupt does not keep the process, since nothing has been changed."""
    command = ("status", "memory", "--topic", "t", "--group-id", "g", "--output", "json")
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, "survey", *command],
        cwd=ROOT,
        env=environment(ROOT),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "stuck\n"
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, json.loads(stdout)) == (1, ANSWER)
    assert f"Error: {INTERRUPTED}" in stderr


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_clone_without_its_packages_names_what_to_install(tmp_path: Path, output: str) -> None:
    """Where a package is not installed, the command ends with 2, its name and the line that installs it."""
    (tmp_path / "click.py").write_text('raise ModuleNotFoundError("none", name="click")\n')
    done = subprocess.run(
        [sys.executable, *COMMAND, "--output", output], env=environment(tmp_path),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "needs the Python package click" in done.stderr
    assert "pip install -r requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
    if output == "json":
        assert json.loads(done.stdout) == json.loads(failure_json(UsageError(done.stderr.strip()[7:])))
