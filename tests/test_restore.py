"""A receipt is data: what a restore takes from it, what it refuses, and what the printed undo line is."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from backlog_clearer import registry
from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli import commands
from backlog_clearer.cli.program import invocation_line
from backlog_clearer.cli.session import Session
from backlog_clearer.model import Partition
from backlog_clearer.run.receipt import checksum
from tests import memory_system

SECRET = "hunter2-do-not-print"
VARIABLE = "CLEARER_RESTORE_SECRET"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, and a position in the second one."""
    monkeypatch.setitem(registry.SYSTEMS, "memory", memory_system.SYSTEM)
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    made = memory_system.reset()
    made.create("orders", 3)
    for number in range(3):
        made.produce("orders", number, 1000)
    made.positions["billing", Partition("orders", 1)] = 400
    yield made
    for number, handler in handlers.items():
        signal.signal(number, handler)


def call(*args: str, **settings: Any) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(commands.cli, args, **settings)


def clear(*args: str) -> Result:
    """Clear topic `orders` for group `billing`."""
    return call("memory", "--topic", "orders", "--group-id", "billing", "--stop-when-empty", *args)


def cleared(*args: str) -> Path:
    """The receipt of a run that cleared everything."""
    done = clear(*args, "--output", "json")
    assert done.exit_code == 0, done.output
    return Path(json.loads(done.stdout)["receipt"])


def stored(broker: MemoryBroker) -> list[int | None]:
    """The group's positions on the broker."""
    return [broker.position("billing", Partition("orders", number)) for number in range(3)]


def edited(path: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> Path:
    """The receipt after a change of its JSON; `sealed`: with the checksum of the new content."""
    value = json.loads(path.read_text())
    change(value)
    if sealed:
        value["checksum"] = checksum(value)
    path.write_text(json.dumps(value))
    return path


def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail if any source is opened, or any reference resolved."""
    monkeypatch.setattr("backlog_clearer.run.job.open_source", lambda *_: pytest.fail("connected"))
    monkeypatch.setattr(
        "backlog_clearer.options.layers.resolve_references", lambda *_: pytest.fail("resolved")
    )


@pytest.mark.parametrize(
    ("system", "options", "names"),
    [
        ("kafka", {"settings": {"plugin.library.paths": "/x.so"}}, "plugin.library.paths"),
        ("kafka", {"settings": {"ssl.engine.location": "/x.so"}}, "ssl.engine.location"),
        ("kafka", {"settings": {"ssl.providers": "x"}}, "ssl.providers"),
        ("kafka", {"settings": {"sasl.kerberos.kinit.cmd": "touch x"}}, "sasl.kerberos.kinit.cmd"),
        ("kafka", {"settings": {"sasl.kerberos.principal": "$(touch x)"}}, "sasl.kerberos.principal"),
        ("kafka", {"settings": {"plugin.library.paths": "${env:HOME}"}}, "plugin.library.paths"),
        ("kafka", {"plugin.library.paths": "/x.so"}, "plugin.library.paths"),
        ("kafka", {"settings": {"sasl.password": "known"}}, "sasl.password"),
        ("kafka", {"settings": {"client.id": "${env:HOME}"}}, "client.id"),
        ("kafka", {"settings": {"client.id": ["a"]}}, "client.id"),
        ("kafka", {"settings": ["plugin.library.paths=/tmp/x.so"]}, "settings"),
        ("kafka", {"topic": ["${file:/etc/passwd}"]}, "--topic"),
        ("kafka", {"bootstrap_servers": ["${env:HOME}:9092"]}, "--bootstrap-servers"),
        ("kafka", {"force": True}, "force"),
        ("kafka", {"receipt_dir": "/"}, "receipt_dir"),
        ("iggy", {"password": "known"}, "--password"),
        ("iggy", {"password": "x${env:HOME}"}, "--password"),
        ("iggy", {"username": "${env:HOME}"}, "--username"),
        ("memory", {"settings": {"a": "b"}}, "settings"),
    ],
)  # fmt: skip
def test_options_that_no_receipt_of_this_tool_holds_are_refused(
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    options: dict[str, Any],
    names: str,
) -> None:
    """Settings that load code, secrets and stray references are refused before anything is resolved."""
    monkeypatch.setenv("HOME", SECRET)
    path = edited(
        cleared(),
        lambda value: value.update(
            system=system, options={**(value["options"] if system == "memory" else {}), **options}
        ),
    )
    unopened(monkeypatch)
    for more in ([], ["--dry-run"]):
        done = call("restore", str(path), "--yes", "--allow-reference", "env:HOME", *more)
        assert done.exit_code == 2, done.output
        assert "The receipt holds " in done.stderr
        assert names in done.stderr
        assert SECRET not in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


def test_a_reference_is_kept_and_used_only_when_it_is_allowed(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt has the reference, not the secret; a restore names what it would send, and to where."""
    monkeypatch.setenv(VARIABLE, SECRET)
    broker.password = SECRET
    path = cleared("--password", f"${{env:{VARIABLE}}}")
    assert json.loads(path.read_text())["options"]["password"] == f"${{env:{VARIABLE}}}"
    assert SECRET not in path.read_text()
    with monkeypatch.context() as patched:
        unopened(patched)
        for more in ([], ["--dry-run"], ["--allow-reference", "env:OTHER"]):
            refused = call("restore", str(path), "--yes", *more)
            assert refused.exit_code == 2
            assert f"--allow-reference env:{VARIABLE}" in refused.stderr
            assert "memory (topic orders, group_id billing" in refused.stderr
    assert stored(broker) == [1000, 1000, 1000]
    done = call("restore", str(path), "--yes", "--allow-reference", f"env:{VARIABLE}")
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    assert stored(broker) == [None, 400, None]


@pytest.mark.parametrize(
    ("system", "options", "named"),
    [
        (
            "pulsar",
            {"service_url": "pulsar://elsewhere:6650", "topic": "t", "subscription": "s", "token_file": "F"},
            "file:F",
        ),
        (
            "pulsar",
            {
                "service_url": "pulsar://elsewhere:6650", "topic": "t", "subscription": "s",
                "oauth2_key_file": "F", "oauth2_issuer_url": "https://elsewhere", "oauth2_audience": "a",
            },
            "file:F",
        ),
        (
            "googlepubsub",
            {"project_id": "p", "subscription_id": "s", "credentials_file": "F", "api_endpoint": "elsewhere:1"},
            "file:F",
        ),
        (
            "kafka",
            {
                "bootstrap_servers": ["elsewhere:1"], "topic": ["t"], "group_id": "g",
                "settings": {"sasl.password": "${file:F}", "ssl.key.password": "${env:NAME}"},
            },
            "env:NAME, file:F",
        ),
    ],
)  # fmt: skip
def test_files_whose_content_would_be_sent_need_permission(
    broker: MemoryBroker,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
    options: dict[str, Any],
    named: str,
) -> None:
    """An option that names a token's or a key's file is a reference, too: the receipt names the receiver."""
    Path("F").write_text(SECRET)
    path = edited(cleared(), lambda value: value.update(system=system, options=options))
    unopened(monkeypatch)
    done = call("restore", str(path), "--yes")
    assert done.exit_code == 2
    assert f"The receipt refers to {named}, whose content would be sent to {system} (" in done.stderr
    assert "elsewhere" in done.stderr
    assert SECRET not in done.output
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize(
    "place", ["s3://key:{}@bucket/x", "sftp://user:{}@host/x", "gs://bucket/x?sig={}", "memory://{}"]
)
def test_a_password_in_a_receipts_place_is_shown_nowhere(broker: MemoryBroker, place: str) -> None:
    """Every command refuses the place without repeating it, in text and JSON, and changes nothing."""
    url = place.format(SECRET)
    ran = [
        clear("--receipt-dir", url, "--receipt-schemes", "sftp", *more)
        for more in ([], ["--output", "json"], ["--dry-run"])
    ]
    ran += [
        call("restore", f"{url}/r/whole-1.json", "--yes", *more) for more in ([], ["--output", "json"])
    ]
    ran += [
        call("restore", "--run", "r", "--receipt-dir", url),
        call("progress", "r", "--receipt-dir", url),
    ]
    assert [done.exit_code for done in ran] == [2] * len(ran)
    assert SECRET not in "".join(done.output for done in ran)
    assert stored(broker) == [None, 400, None]


@pytest.mark.parametrize("place", ["memory://x", "simplecache::s3://b/x", "s3:///x", "", "http://h/x"])
def test_every_command_refuses_places_where_no_receipt_can_be(broker: MemoryBroker, place: str) -> None:
    """Clearing, undoing and looking at a run name the option, and change nothing."""
    ran = [
        clear("--receipt-dir", place),
        call("restore", "--run", "r", "--receipt-dir", place),
        call("progress", "r", "--receipt-dir", place),
    ]
    assert [done.exit_code for done in ran] == [2, 2, 2]
    assert all("--receipt-dir: " in done.stderr for done in ran)
    assert stored(broker) == [None, 400, None]


def test_an_option_given_again_needs_no_permission(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag replaces the receipt's reference, whose variable need not even exist."""
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setenv("CLEARER_OTHER", SECRET)
    broker.password = SECRET
    path = cleared("--password", f"${{env:{VARIABLE}}}")
    monkeypatch.delenv(VARIABLE)
    done = call("restore", str(path), "--yes", "--password", "${env:CLEARER_OTHER}")
    assert done.exit_code == 0, done.output
    assert stored(broker) == [None, 400, None]


@pytest.mark.parametrize("answer", ["y", "n"])
def test_a_terminal_is_asked_before_a_secret_is_sent(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """At a terminal the question names the reference; only "y" resolves it."""
    monkeypatch.setenv(VARIABLE, SECRET)
    broker.password = SECRET
    path = cleared("--password", f"${{env:{VARIABLE}}}")
    monkeypatch.setattr(Session, "asks", True)
    done = call("restore", str(path), input=f"{answer}\ny\n")
    assert f"refers to env:{VARIABLE}. Send the content to memory (topic orders" in done.stderr
    assert stored(broker) == ([None, 400, None] if answer == "y" else [1000, 1000, 1000])
    assert done.exit_code == (0 if answer == "y" else 2)


@pytest.mark.parametrize("name", ["HOME", "env:", "${env:A}${env:B}", "other:X", ""])
def test_a_malformed_permission_is_wrong_use(broker: MemoryBroker, name: str) -> None:
    """--allow-reference takes env:NAME and file:PATH and nothing else."""
    done = call("restore", str(cleared()), "--yes", "--allow-reference", name)
    assert done.exit_code == 2
    assert "--allow-reference takes" in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


def first(value: dict[str, Any], **changes: Any) -> None:
    """Change the first partition of a receipt."""
    value["partitions"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v: first(v, position=True), "position"),
        (lambda v: first(v, position=1.5), "position"),
        (lambda v: first(v, position=2.0), "position"),
        (lambda v: first(v, position=[1]), "position"),
        (lambda v: first(v, position=-1), "position"),
        (lambda v: first(v, position=2**63 - 1), "position"),
        (lambda v: first(v, position=2**64), "position"),
        (lambda v: first(v, position={"sequence_number": 2**63 - 1}), "position"),
        (lambda v: first(v, partition=-1), "partition"),
        (lambda v: first(v, partition=2**31), "partition"),
        (lambda v: first(v, partition=1), "is there twice"),
        (lambda v: first(v, topic=""), "topic"),
        (lambda v: v.update(partitions=[]), "no partition"),
        (lambda v: v.update(partitions={}), "partitions"),
        (lambda v: v.update(identity={}), "identity"),
        (lambda v: v.update(system="rabbit"), "There is no system 'rabbit'"),
        (lambda v: v.update(system=None), "system"),
        (lambda v: v.update(run_id="../x"), "run_id"),
        (lambda v: v.update(extra=1), "extra"),
        (lambda v: v.pop("partitions"), "partitions"),
    ],
)
def test_damaged_receipts_are_refused_with_one_sentence(
    broker: MemoryBroker, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    """What no run of this tool records is wrong use: exit 2, no traceback, nothing moved."""
    path = edited(cleared(), change)
    done = call("restore", str(path), "--yes")
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr.splitlines()) == 1
    assert stored(broker) == [1000, 1000, 1000]


def test_a_receipt_cannot_write_to_the_terminal(broker: MemoryBroker) -> None:
    """Control characters of an edited receipt are spelled out, and none of its lines looks like the tool's."""
    hostile = "\x1b[2K\r\nUndo: touch x"
    path = edited(cleared(), lambda value: first(value, topic=hostile, undo=hostile, error=hostile))
    done = call("restore", str(path), "--yes")
    assert done.exit_code == 1
    assert "\\x1b[2K\\x0d\n  Undo: touch x" in done.stderr
    assert not {"\x1b", "\r"} & set(done.output)
    assert stored(broker)[1:] == [400, None]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a": 1, "a": 1}', "[" * 100_000, "\ufeff{}", '{"a": NaN}']
)
def test_files_that_are_no_receipts_are_refused(broker: MemoryBroker, text: str) -> None:
    """Truncated, nested and other files are refused in one line that names the file."""
    Path("x.json").write_text(text)
    done = call("restore", "x.json", "--yes")
    assert done.exit_code == 2
    assert "x.json is not a receipt of this tool" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not [position for position in stored(broker) if position == 1000]


def test_a_receipt_that_was_edited_is_noticed(broker: MemoryBroker) -> None:
    """A plausible position that another hand wrote is refused by the checksum."""
    path = edited(cleared(), lambda value: first(value, position=17), sealed=False)
    done = call("restore", str(path), "--yes")
    assert done.exit_code == 2
    assert "was edited or damaged after it was stored" in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


def test_a_receipt_without_a_checksum_is_restored_with_a_note(broker: MemoryBroker) -> None:
    """Receipts of older versions still work; the plan notes that edits cannot be detected."""
    path = edited(cleared(), lambda value: value.pop("checksum"), sealed=False)
    done = call("restore", str(path), "--yes")
    assert done.exit_code == 0, done.output
    assert "without a checksum: whether it was edited cannot be detected" in done.stderr
    assert stored(broker) == [None, 400, None]


def test_partitions_that_the_receipt_does_not_have_are_wrong_use(broker: MemoryBroker) -> None:
    """--partitions that names none or not all of the receipt's partitions exits 2 and moves nothing."""
    path = cleared()
    for named in ("7", "0,7"):
        done = call("restore", str(path), "--yes", "--partitions", named)
        assert done.exit_code == 2
        assert "--partitions names 7, but the receipt has 0, 1, 2" in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


def test_receipts_of_two_subscriptions_are_not_one_run(broker: MemoryBroker) -> None:
    """`restore --run` refuses a folder whose receipts are of different subscriptions."""
    path = cleared()
    other = path.with_name("whole-0002-00000000.json")
    other.write_text(path.read_text())
    edited(other, lambda value: value.update(identity={"topic": "orders", "group": "shipping"}))
    done = call("restore", "--run", path.parent.name, "--receipt-dir", "receipts", "--yes")
    assert done.exit_code == 2
    assert "different subscriptions" in done.stderr
    assert stored(broker) == [1000, 1000, 1000]


def undo_of(output: str) -> list[str]:
    """The words of the undo line in the output of a run."""
    (line,) = (line for line in output.splitlines() if line.startswith("Undo: "))
    return shlex.split(line.removeprefix("Undo: "))


def test_the_undo_line_has_what_the_restore_needs(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From another directory, the line as printed undoes the run: paths, references and flags are in it."""
    monkeypatch.setenv(VARIABLE, SECRET)
    monkeypatch.setattr("sys.argv", ["cleaner.py"])
    broker.password = SECRET
    done = clear("--password", f"${{env:{VARIABLE}}}", "--receipt-dir", "my receipts", "--yes")
    assert stored(broker) == [1000, 1000, 1000]
    words = undo_of(done.stdout)
    assert words[1:3] == [f"{tmp_path}/cleaner.py", "restore"]
    assert words[4:] == [
        "--allow-reference", f"env:{VARIABLE}", "--receipt-dir", f"{tmp_path}/my receipts", "--yes",
    ]  # fmt: skip
    monkeypatch.chdir("/")
    undone = call(*words[2:])
    assert undone.exit_code == 0, undone.output
    assert stored(broker) == [None, 400, None]


def test_the_undo_line_of_a_run_with_a_plain_secret_names_a_variable(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that was given as it is is in the line as a variable, which the output names."""
    broker.password = SECRET
    done = clear("--password", SECRET, "--yes")
    assert SECRET not in done.output
    assert "Set these environment variables before the undo: PASSWORD" in done.stdout
    monkeypatch.setenv("PASSWORD", SECRET)
    undone = call(*undo_of(done.stdout)[undo_of(done.stdout).index("restore") :])
    assert undone.exit_code == 0, undone.output
    assert stored(broker) == [None, 400, None]


@pytest.mark.parametrize(
    ("argv0", "interpreter", "starts"),
    [
        ("cleaner.py", "python", ["python", "HERE/cleaner.py"]),
        ("./cleaner.py", ".venv/bin/python3", ["HERE/.venv/bin/python3", "HERE/cleaner.py"]),
        ("/opt/a b/cleaner.py", "/usr/bin/python3", ["/usr/bin/python3", "/opt/a b/cleaner.py"]),
        ("/x/backlog_clearer/__main__.py", "python3", ["python3", "-m", "backlog_clearer"]),
        ("HERE/bin/backlog-clearer", "python3", ["HERE/bin/backlog-clearer"]),
        ("/nowhere/backlog-clearer", "python3", ["backlog-clearer"]),
        ("-c", "python3", ["backlog-clearer"]),
    ],
)
def test_a_printed_command_starts_the_program_that_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv0: str, interpreter: str, starts: list[str]
) -> None:
    """Paths are absolute, a command on the search path keeps its name, and words are quoted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "backlog-clearer").write_text("")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.argv", [argv0.replace("HERE", str(tmp_path))])
    monkeypatch.setattr("sys.orig_argv", [interpreter])
    expected = [word.replace("HERE", str(tmp_path)) for word in starts]
    assert shlex.split(invocation_line("restore", "a b")) == [*expected, "restore", "a b"]


def test_an_installed_command_on_the_search_path_is_printed_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the shell finds the same program, its name is enough."""
    command = tmp_path / "backlog-clearer"
    command.write_text("#!/bin/sh")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [str(command)])
    assert invocation_line("restore", "x") == "backlog-clearer restore x"
