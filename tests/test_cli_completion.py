"""Shell completion: what the three shells are offered, and that the printed scripts work in them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.cli import commands
from backlog_clearer.testing.support import need
from tests.invoking import clear, stored, three_partitions
from tests.paths import MODULE_PATH

NAME = "backlog-clearer"
TYPED = ("kaf", "status pul", "kafka --mode s")
"""What is typed in a shell itself: the beginnings of a command, of a system, and of a value."""


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, reachable as system `memory`."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def completed(shell: str, *words: str) -> list[str]:
    """What the program offers a shell for the last of these words."""
    env = {"_BACKLOG_CLEARER_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        env |= {"COMP_WORDS": " ".join([NAME, *words[:-1]]), "COMP_CWORD": words[-1]}
    else:
        env |= {"COMP_WORDS": " ".join([NAME, *words]), "COMP_CWORD": str(len(words))}
    done = CliRunner().invoke(commands.cli, [], prog_name=NAME, env=env)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line]
    if shell == "zsh":
        return [line for index, line in enumerate(lines) if index % 3 == 1]
    return [line.split(",", 1)[1].split("\t")[0] for line in lines]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["kaf"], ["kafka"]),
        (["res"], ["restore"]),
        (["kafka", "--boot"], ["--bootstrap-servers"]),
        (["status", "pul"], ["pulsar"]),
        (["kafka", "--mode", "s"], ["skip"]),
        (["receipts", "p"], ["prune"]),
        (["restore", "--dry"], ["--dry-run"]),
        (["no-such-command", "x"], []),
    ],
)
def test_commands_options_and_values_are_offered(
    shell: str, words: list[str], offered: list[str]
) -> None:
    """Each shell is offered the names that begin so."""
    assert completed(shell, *words) == offered


def test_a_named_backlog_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` offers the names of the configuration; a faulty configuration offers none."""
    options = {"bootstrap_servers": "b:9092", "topic": "t", "group_id": "g"}
    backlogs = {"shop-orders": {"system": "kafka", "options": options}}
    monkeypatch.setenv("BACKLOG_CLEARER_CONFIG", json.dumps({"backlogs": backlogs}))
    assert completed("bash", "status", "sho") == ["shop-orders"]
    monkeypatch.setenv("BACKLOG_CLEARER_CONFIG", "{}")
    assert completed("bash", "status", "kaf") == ["kafka"]


def test_options_of_the_receipts_system_are_offered(broker: MemoryBroker) -> None:
    """After a receipt, `restore` offers its system's options, and restores nothing."""
    path = json.loads(clear("--stop-when-empty", "--output", "json").stdout)["receipt"]
    assert completed("bash", "restore", path, "--gro") == ["--group-id"]
    assert completed("bash", "restore", "no-such.json", "--gro") == []
    assert stored(broker) == [1000, 1000, 1000]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_the_shell_is_printed(shell: str) -> None:
    """The script is about the installed command."""
    env = {"_BACKLOG_CLEARER_COMPLETE": f"{shell}_source"}
    done = CliRunner().invoke(commands.cli, [], prog_name=NAME, env=env)
    assert done.exit_code == 0, done.output
    assert f"_BACKLOG_CLEARER_COMPLETE={shell}_complete" in done.stdout
    assert NAME in done.stdout


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command is on the PATH."""
    command = tmp_path / NAME
    command.write_text(f"#!{sys.executable}\nfrom backlog_clearer.cli.commands import main\nmain()\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", MODULE_PATH)


def ran(*command: str) -> str:
    """What a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("installed")
def test_bash_completes_by_the_printed_script() -> None:
    """The documented line, in bash itself, completes "kaf"."""
    need("bash")
    script = (
        f'eval "$(_BACKLOG_CLEARER_COMPLETE=bash_source {NAME})"\n'
        f'COMP_WORDS=({NAME} kaf); COMP_CWORD=1; _backlog_clearer_completion {NAME}; echo "${{COMPREPLY[@]}}"'
    )
    assert ran("bash", "--norc", "-c", script).split() == ["kafka"]


@pytest.mark.usefixtures("installed")
def test_fish_completes_by_the_printed_script() -> None:
    """The documented line, in fish itself, completes commands, systems and values."""
    need("fish")
    script = "; ".join(
        [
            f"_BACKLOG_CLEARER_COMPLETE=fish_source {NAME} | source",
            *(f"complete -C '{NAME} {typed}'; echo end" for typed in TYPED),
        ]
    )
    lines = ran("fish", "--no-config", "-c", script).splitlines()
    offered = [line.split("\t")[0] for line in lines]
    assert offered == ["kafka", "end", "pulsar", "end", "skip", "end"]


@pytest.mark.usefixtures("installed")
def test_zsh_completes_by_the_printed_script(tmp_path: Path) -> None:
    """The documented line, in an interactive zsh, completes what is typed before a tab."""
    need("zsh")
    lines = tmp_path / "lines"
    (tmp_path / ".zshrc").write_text(
        f"PS1='{_PROMPT}'\nautoload -U compinit; compinit -u\n"
        f'eval "$(_BACKLOG_CLEARER_COMPLETE=zsh_source {NAME})"\n'
        f'written() {{ print -r -- "$BUFFER" >> {lines}; BUFFER= }}; zle -N written; bindkey "^X" written\n'
        "ended() { exit }; zle -N ended; bindkey '^Y' ended\n"
    )
    screen, keyboard = pty.openpty()
    with subprocess.Popen(
        ["zsh", "-i"],
        env={**os.environ, "ZDOTDIR": str(tmp_path), "TERM": "dumb"},
        stdin=keyboard,
        stdout=keyboard,
        stderr=keyboard,
        start_new_session=True,
    ) as shell:
        os.close(keyboard)  # the shell's end of it is the only one now: a read fails once it has exited
        shown = b""
        while _PROMPT.encode() not in shown:
            shown += os.read(screen, 4096)
        os.write(screen, "".join(f"{NAME} {typed}\t\x18" for typed in TYPED).encode() + b"\x19")
        reader = threading.Thread(target=_drain, args=(screen,), daemon=True)
        reader.start()  # a full terminal would block the shell
        assert shell.wait(60) == 0
    reader.join(10)
    os.close(screen)
    assert lines.read_text().splitlines() == [
        f"{NAME} kafka ",
        f"{NAME} status pulsar ",
        f"{NAME} kafka --mode skip ",
    ]


_PROMPT = "ready> "


def _drain(screen: int) -> None:
    with suppress(OSError):
        while os.read(screen, 4096):
            pass
