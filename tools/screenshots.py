"""Record docs/screenshot.svg from a real run in a terminal: `python -m tools.screenshots`.

An embedded broker gets a backlog, the installed command shows and clears it in a pseudo-terminal, and
rich draws what the terminal shows at the end. Every character after the prompts is the command's own.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

import click
from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.text import Text

from backlog_clearer.testing.servers.embedded_kafka import EmbeddedKafka

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "screenshot.svg"
COMMAND = "backlog-clearer"

_COLUMNS, _LINES = 104, 60
_MESSAGES = 2_000_000
_CONSUMED = (120_004, 118_377, 121_250, 119_816)
"""Where a consumer left each partition."""
_TOPIC, _GROUP = "orders", "billing"
_TIMEOUT_S = 60
_FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
_QUESTION = re.compile(rb"\[y/N\]: ?$")
_TOKEN = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r?\n|\r|[^\x1b\r\n]+")


def final_screen(output: str) -> str:
    """The lines that a terminal shows after `output`, with their colours.

    Follows what rich writes: colours, line ends, whole lines erased, and the cursor moved up.
    """
    rows, row = [""], 0
    for token in _TOKEN.finditer(output):
        text, parameter, final = token[0], token[1], token[2]
        if final == "A":
            row = max(0, row - int(parameter or 1))
        elif final == "K":
            rows[row] = ""
        elif text.endswith("\n"):
            row += 1
            if row == len(rows):
                rows.append("")
        elif final == "m" or (final is None and text != "\r"):
            rows[row] += text
    return "\n".join(rows).rstrip()


def record(command: list[str], folder: Path) -> str:
    """Run a command in a terminal, with its one question answered by "y", and return what it wrote.

    Raises `ClickException` with the output if it fails, `subprocess.TimeoutExpired` if it does not end.
    """
    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    unwanted = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    # A user's PATH has the command, too: it is printed by its name.
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT / "core"), "PATH": path}
    with subprocess.Popen(  # noqa: S603 our own command line
        command, cwd=folder, env=environment, stdin=inside, stdout=inside, stderr=inside
    ) as process:
        os.close(inside)
        output = b""
        while part := _read(terminal):
            output += part
            if _QUESTION.search(output):
                os.write(terminal, b"y\n")
        os.close(terminal)
        code = process.wait(_TIMEOUT_S)
    text = output.decode()
    if code != 0:
        raise click.ClickException(f"{command[1:]} exited with {code}:\n{text}")
    return text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to end a terminal whose other side is closed
        return b""


def draw(screen: str) -> str:
    """The screen as an SVG that needs no font from a network."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in Text.from_ansi(screen).split():
        for part in line.divide(range(_COLUMNS, line.cell_len, _COLUMNS)):  # as a terminal breaks lines
            console.print(part)
    svg = console.export_svg(title=COMMAND, unique_id="terminal")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", _FONTS).replace("arial", "sans-serif")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def _commit(bootstrap_servers: str) -> None:
    """Commit the group's offsets as a consumer that then went away."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": _GROUP})
    positions = [TopicPartition(_TOPIC, number, offset) for number, offset in enumerate(_CONSUMED)]
    consumer.commit(offsets=positions, asynchronous=False)
    consumer.close()


def _commands(bootstrap_servers: str) -> list[list[str]]:
    """Each command as the lines in which it is typed."""
    group = f"--bootstrap-servers {bootstrap_servers} --topic {_TOPIC} --group-id {_GROUP}"
    return [
        [f"{COMMAND} status kafka {group}"],
        [f"{COMMAND} kafka {group} \\", "    --workers 4 --stop-when-empty"],
    ]


def main() -> None:
    """Fill a topic, record the commands, and write the picture."""
    installed = shutil.which(COMMAND, path=str(Path(sys.executable).parent))
    if installed is None:
        raise click.ClickException(f"{COMMAND} is not installed beside {Path(sys.executable).name}.")
    screens = []
    with EmbeddedKafka() as broker, tempfile.TemporaryDirectory(prefix="drain-") as folder:
        broker.create_topic(_TOPIC, len(_CONSUMED))
        broker.produce(_TOPIC, _MESSAGES)
        _commit(broker.bootstrap_servers)
        for lines in _commands(broker.bootstrap_servers):
            arguments = " ".join(lines).replace("\\", "").split()[1:]
            shown = final_screen(record([installed, *arguments], Path(folder)))
            typed = "\n".join(f"\x1b[1m{line}\x1b[0m" for line in lines)
            screens.append(f"\x1b[32m$\x1b[0m {typed}\n{shown}")
    PICTURE.write_text(draw("\n\n".join(screens)), encoding="utf-8")
    click.echo(f"{PICTURE.relative_to(ROOT)} is written.")


if __name__ == "__main__":
    main()
