"""The pages are short where they promise it, their links lead somewhere, and their commands exist."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import click
import pytest

from backlog_clearer.cli.commands import cli
from backlog_clearer.cli.flags import options_of
from backlog_clearer.options.base import flag
from backlog_clearer.options.run import RunOptions
from backlog_clearer.registry import SYSTEMS, options_model
from tests.adapters.redis_streams import SYSTEM
from tests.paths import ROOT
from tools import screenshots

PAGES = sorted(
    path
    for pattern in ("*.md", "bench/*.md", "docs/*.md", "infra/terraform/*.md", "infra/terraform/*/*.md")
    for path in ROOT.glob(pattern)
)
README = ROOT / "README.md"
README_WORDS = 900
OPTIONS_OF_RESTORE = {
    "--allow-reference",
    "--run",
    "--yes",
    "--output",
    "--quiet",
    "--log-level",
    "--config-json",
}

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_ANCHOR = re.compile(r'<a name="([^"]+)"></a>')
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: dict[str, int] = {}
    names = set()
    for title in _HEADING.findall(prose(page.read_text(encoding="utf-8"))):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        repeated = found.get(name, 0)
        found[name] = repeated + 1
        names.add(f"{name}-{repeated}" if repeated else name)
    names |= {name.replace("_", "\\_") for name in _ANCHOR.findall(page.read_text(encoding="utf-8"))}
    return frozenset(names)


def commands(text: str) -> list[list[str]]:
    """The arguments of every command of this tool that a page shows, in a block or in a line."""
    lines = [
        line
        for _, language, block in _FENCE.findall(text)
        if language == "console"
        for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += [span.replace("\\|", "|") for span in _INLINE.findall(prose(text))]
    found = []
    for line in lines:
        match = re.match(
            r"\s*(?:uvx --from \. |[A-Z_]+=.* )?(?:(?:python )?cleaner\.py|backlog-clearer) (.+)", line
        )
        if match:
            found.append(shlex.split(match[1].replace("$Default", "Default"), comments=True))
    return found


def flags_of(command: click.Command) -> set[str]:
    """Every way to write an option of a command."""
    return {
        name for item in command.params if isinstance(item, click.Option)
        for name in (*item.opts, *item.secondary_opts, "--help", "-h")
    }  # fmt: skip


def known_flags(words: list[str]) -> set[str]:
    """The options that a command may have; `words` are those before its first option."""
    context = click.Context(cli)
    group: click.Command = cli
    for word in words:
        if not isinstance(group, click.Group) or word in {"SYSTEM", "NAME", "…"}:
            break
        found = group.get_command(context, word)
        assert found is not None, f"there is no command {' '.join(words)}"
        group = found
    if words[:1] == ["restore"]:
        made = [option for name in SYSTEMS for option in options_of(options_model(name))]
        made += options_of(RunOptions)
        return OPTIONS_OF_RESTORE | {name for option in made for name in option.opts}
    return flags_of(group)


@pytest.fixture(autouse=True)
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system of docs/adapters.md, as if its package were installed."""
    monkeypatch.setitem(SYSTEMS, "redis", SYSTEM)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_link_inside_the_repository_leads_to_a_file_and_a_heading(page: Path) -> None:
    """A relative link names a file that exists, and an anchor that the page has."""
    for target in _LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(path), f"{target}: the page has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    """A command that a page shows is one of the command line's, and so is each of its options."""
    for words in commands(page.read_text(encoding="utf-8")):
        named = [word for word in words if word.startswith("-")]
        before = words[: words.index(named[0])] if named else words
        known = known_flags(before)
        for option in named:
            assert option.partition("=")[0] in known, f"{option} of {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    """`make X` on a page is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [
        re.escape(name).replace("%", r"[\w-]+")
        for name in re.findall(r"^([\w%-]+):", makefile, re.MULTILINE)
    ]
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?:^|`|&& )make (?:-C \S+ )?([a-z][\w-]*)", text, re.MULTILINE):
        assert re.fullmatch("|".join(targets), name), f"make {name} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_benchmark_on_a_page_exists_with_its_arguments(page: Path) -> None:
    """`make bench-X` on a page is a program in bench/, which has each argument that the page gives it."""
    text = page.read_text(encoding="utf-8")
    for name, given in re.findall(r"`[^`\n]*make bench-(\w+)(?: BENCH_ARGS=([^`\n]+))?`", text):
        program = ROOT / "bench" / f"{name}.py"
        assert program.exists(), f"make bench-{name} does not exist"
        for word in re.findall(r"--[a-z-]+", given):
            assert f'"{word}"' in program.read_text(encoding="utf-8"), f"bench-{name} has no {word}"


def test_the_readme_has_fewer_than_900_words() -> None:
    """Prose and tables together; what does not fit is in docs/."""
    words = [
        word for word in prose(README.read_text(encoding="utf-8")).split() if re.search(r"\w", word)
    ]
    assert len(words) < README_WORDS


def test_the_index_lists_every_page_of_the_documentation() -> None:
    """Each page in docs/ is linked from its index."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = set(_LINK.findall(index))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= linked


def test_the_usage_page_explains_every_option_of_a_run() -> None:
    """No option that all systems have is missing from its table."""
    page = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8")
    missing = [name for name in RunOptions.model_fields if f"`{flag(name)}" not in page]
    assert not missing


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_the_page_of_a_system_explains_each_of_its_options(name: str) -> None:
    """Every option of a system is on the page that the README's table links."""
    row = next(line for line in README.read_text(encoding="utf-8").splitlines() if f"`{name}`" in line)
    page = (ROOT / _LINK.findall(row)[0]).read_text(encoding="utf-8")
    options = {option.opts[0] for option in options_of(options_model(name))}
    assert not [option for option in options if f"{option}" not in page]


def test_the_screen_is_what_a_terminal_shows_after_a_progress_bar() -> None:
    """Lines that were erased or written again are gone; colours stay with their text."""
    output = "plan\r\nbar 10%\r\x1b[2Kbar 90%\r\n\x1b[1A\x1b[2K\x1b[32mdone\x1b[0m\r\nverified\r\n"
    assert screenshots.final_screen(output) == "plan\n\x1b[32mdone\x1b[0m\nverified"


def test_the_picture_needs_no_network_and_names_no_machine() -> None:
    """The README's picture refers to no font or page elsewhere, and shows a verified run."""
    svg = screenshots.PICTURE.read_text(encoding="utf-8").replace("&#160;", " ")
    assert "Verified: yes" in svg
    assert "url(http" not in svg
    assert '"http' not in svg.replace('xmlns="http', "")
    assert str(ROOT) not in svg


@cache
def texts() -> str:
    """Every text in the package's code but docstrings, a line each; the changing parts of a text end it."""
    found = []
    for path in (ROOT / "core" / "backlog_clearer").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        constants = [
            node for node in nodes if isinstance(node, ast.Constant) and node not in docstrings
        ]
        found += [node.value for node in constants if isinstance(node.value, str)]
    return "\n".join(found)


def test_every_message_that_troubleshooting_explains_is_one_that_the_tool_prints() -> None:
    """The fixed parts of each message in the page's table are in the code."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| message \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    messages = [text for row in table.splitlines() for text in _INLINE.findall(row.split(" | ")[0])]
    assert messages
    for message in messages:
        for part in re.split(r"…|[():]|\b[NX]\b", message):
            assert part.strip() in texts(), f"{part.strip()!r} of {message!r}"
