"""Imports point one way, libraries are imported where they belong, and names have one meaning."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile

import pytest

from backlog_clearer.registry import SYSTEMS
from tests.imports import OURS, graph, imported, modules, parsed, source, within
from tests.paths import MODULE_PATH, ROOT

CORE = "backlog_clearer"
BROKERS = f"{CORE}.brokers"
GROUND = {"answers", "deadline", "errors", "model", "redirects", "text", "options", "redaction"}
MAY_IMPORT = {
    "answers": set[str](),
    "deadline": set[str](),
    "redirects": set[str](),
    "model": set[str](),
    "text": set[str](),
    "redaction": {"text"},
    "errors": {"model", "text", "redaction"},
    "options": {"errors", "model", "text", "redaction"},
    "source": GROUND,
    "brokers": GROUND | {"source"},
    "guard": GROUND | {"source"},
    "registry": GROUND | {"source", "guard"},
    "engine": GROUND | {"source"},
    "run": GROUND | {"source", "registry", "engine"},
    "fanout": GROUND | {"source", "registry", "engine", "run"},
    "cli": GROUND | {"source", "registry", "engine", "run", "fanout", "early"},
    "early": set[str](),
    "ending": set[str](),
    "__main__": {"cli", "early", "ending"},
    "testing": GROUND | {"source", "guard", "registry", "engine", "run", "brokers"},
}
"""What each part of the package may import of the others."""

OTHER_BROKERS = {("eventhubs.kafka_lane", "kafka")}  # an Event Hubs namespace is a Kafka cluster, too

SHARED_NAMES = {
    "open_source": "what the registry calls is called so in every broker package, and in the registry",
    "main": "the entry point of a program",
    "Connection": "a socket and its handshake, in each broker package that has its own protocol",
    "Buffer": "bytes in a receive buffer, in each broker package that reads its own protocol",
    "Address": "a host and a port, in each broker package that gets them from the broker",
    "opened": "a source that is closed at the end of the block, by a job and by the contract's bench",
    "to_broker_error": "a library's error as one of ours, in each broker package that has a library",
    "dispatch": "deployed functions are called by the platforms under this name",
    "drain": "deployed functions are called by the platforms under this name",
}
"""Public names that several modules may define, and why."""

PLATFORM_LIBRARIES = {"google", "azure", "grpc"}  # functions use other parts of these, too


def core_modules() -> list[str]:
    """The modules of the package."""
    return [name for name in modules() if within(name, CORE)]


def distributions(extra: str) -> set[str]:
    """The distributions that an extra in pyproject.toml installs; a parser of TOML needs Python 3.11."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(rf"^{extra} = \[(.*?)\n?\]$", text, re.MULTILINE | re.DOTALL)
    assert block, f"pyproject.toml has no extra {extra}"
    return set(re.findall(r'"([\w-]+)', block[1]))


@cache
def broker_libraries() -> set[str]:
    """Modules of the libraries that only adapters import, from the registry and the extras."""
    whole = {library for system in SYSTEMS.values() for library in system.libraries}
    extras = {system.extra for system in SYSTEMS.values() if system.extra}
    installed = set[str]().union(*map(distributions, extras))
    installed -= set[str]().union(*map(distributions, ("gcp", "azure", "aws")))
    parts = {name.replace("-", ".") for name in installed if name.split("-")[0] in PLATFORM_LIBRARIES}
    return parts | (whole - PLATFORM_LIBRARIES)


def of_broker_library(name: str) -> bool:
    """Whether a dotted name is in one of them; Google's modules have a version at their end."""
    return any(
        name == library or name.startswith((f"{library}.", f"{library}_"))
        for library in broker_libraries()
    )


def layer(module: str) -> str:
    """The part of the package that a module is in: "run", "brokers"; "" for the package itself."""
    return ".".join(module.split(".")[1:2])


def test_no_two_modules_import_each_other() -> None:
    """Imports make no circle, counting those in functions and under `TYPE_CHECKING`."""
    try:
        TopologicalSorter(graph(CORE, "functions")).prepare()
    except CycleError as error:
        pytest.fail(f"imports make a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", core_modules())
def test_imports_point_one_way(module: str) -> None:
    """A module imports only the layers below its own; only `testing` and a test import the adapters."""
    own = layer(module)
    below = {own, "", *MAY_IMPORT.get(own, ())}
    wrong = {name for name in graph(CORE)[module] if layer(name) not in below}
    assert not wrong


@pytest.mark.parametrize("module", [name for name in core_modules() if within(name, BROKERS)])
def test_an_adapter_does_not_import_another(module: str) -> None:
    """What several broker packages have in common is in `brokers.shared`."""
    own = module.removeprefix(f"{BROKERS}.")
    others = {
        name.removeprefix(f"{BROKERS}.").split(".")[0]
        for name in graph(BROKERS)[module]
        if name != BROKERS
    }
    allowed = {own.split(".")[0], "shared"} | {to for name, to in OTHER_BROKERS if name == own}
    assert others <= allowed


def test_broker_libraries_are_those_of_the_registry_and_the_extras() -> None:
    """The list that other tests use has the clients of brokers, and nothing that platforms need."""
    found = broker_libraries()
    assert {"confluent_kafka", "apache_iggy", "google.cloud.pubsub", "azure.eventhub"} <= found
    assert not {"azure.identity", "azure.storage.queue", "google.cloud.tasks"} & found


@pytest.mark.parametrize(
    "module",
    [
        name
        for name in modules()
        if within(name, CORE, "functions", "cleaner") and not within(name, BROKERS, f"{CORE}.testing")
    ],
)
def test_only_adapters_import_broker_libraries(module: str) -> None:
    """Outside `brokers` and `testing`, neither a broker's library nor an adapter is imported."""
    more = PLATFORM_LIBRARIES if within(module, CORE) else set()
    names = imported(module)
    assert not {name for name in names if of_broker_library(name) or within(name, BROKERS, *more)}


@pytest.mark.parametrize(
    "module",
    [name for name in modules() if within(name, CORE, "functions") and not within(name, f"{CORE}.cli")],
)
def test_only_the_command_line_imports_click_and_rich(module: str) -> None:
    """No module outside `cli` imports click or rich, and no function or job imports `cli`."""
    libraries = {"click", "rich"} | ({f"{CORE}.cli"} if within(module, "functions") else set())
    assert not {name for name in imported(module) if within(name, *libraries)}


def loaded_by(code: str) -> set[str]:
    """The modules that a new Python process has loaded after running this code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": MODULE_PATH},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_cloud_functions_load_neither_click_nor_rich() -> None:
    """What functions and jobs import loads neither click nor rich, and no broker's library."""
    loaded = loaded_by(
        "import backlog_clearer.fanout.configuration, backlog_clearer.fanout.dispatch,"
        " backlog_clearer.fanout.run_status, backlog_clearer.fanout.slices, backlog_clearer.run.clear,"
        " functions.answers, functions.job.main"
    )
    assert "backlog_clearer.fanout.dispatch" in loaded
    unwanted = ("click", "rich", "backlog_clearer.cli", "prometheus_client")
    assert not {name for name in loaded if within(name, *unwanted) or of_broker_library(name)}


def test_help_loads_only_what_it_needs() -> None:
    """`cleaner.py SYSTEM --help` loads no library of terminals, receipts, metrics or brokers."""
    loaded = loaded_by(
        "import contextlib, os, runpy, sys\n"
        "os._exit = sys.exit\n"
        f"for system in {list(SYSTEMS)}:\n"
        "    sys.argv = ['cleaner.py', system, '--help']\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        runpy.run_path('cleaner.py', run_name='__main__')"
    )
    options = {system.options.partition(":")[0] for system in SYSTEMS.values()}
    assert {"backlog_clearer.cli.commands", *options} <= loaded
    unwanted = ("rich", "fsspec", "prometheus_client")
    assert not {name for name in loaded if within(name, *unwanted) or of_broker_library(name)}


def test_a_clear_of_kafka_loads_no_part_of_other_commands() -> None:
    """What `cleaner.py kafka` loads to clear has neither fan-out nor restores, posts, bars and tokens in it.

    Each of these is loaded where it is used (bench/README-kafka.md has what they would take).
    """
    loaded = loaded_by(
        "import backlog_clearer.cli.commands, backlog_clearer.cli.actions,"
        " backlog_clearer.brokers.kafka.source"
    )
    assert {"backlog_clearer.run.clear", "confluent_kafka", "rich.console"} <= loaded
    other = (
        "fanout", "cli.named", "cli.named_commands", "cli.slices", "cli.several", "cli.watch", "run.several",
        "run.restore", "run.post", "redirects", "brokers.kafka.token_endpoint",
    )  # fmt: skip
    unwanted = [*(f"{CORE}.{name}" for name in other), "fsspec", "prometheus_client", "opentelemetry"]
    unwanted += ["rich.progress", "kafka.protocol.admin", "kafka.admin", "kafka.net", "tenacity"]
    assert not {name for name in loaded if within(name, *unwanted)}


@pytest.mark.parametrize("module", [name for name in modules() if within(name, "bench", "tests")])
def test_bench_and_tests_do_not_import_each_other(module: str) -> None:
    """Benchmarks and tests share helpers through `backlog_clearer.testing`.

    Except tests/test_fanout_model.py: the model of fan-out that it tests is the benchmark's.
    """
    if module != "tests.test_fanout_model":
        other = "tests" if within(module, "bench") else "bench"
        assert not {name for name in imported(module) if within(name, other)}


def test_the_product_imports_no_tests() -> None:
    """The package, the functions and the demonstration need nothing of tests, bench or tools."""
    for module in modules():
        if within(module, CORE, "functions", "demo", "cleaner"):
            found = {name for name in imported(module) if within(name, "tests", "bench", "tools")}
            assert not found, module


def test_no_docstring_is_left_to_write() -> None:
    """No docstring contains a marker for unfinished work."""
    marker = re.compile(r"\b(TODO|FIXME|XXX)\b")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    unwritten = [
        f"{module}: {ast.get_docstring(node)}"
        for module in modules()
        if marker.search(source(module))
        for node in ast.walk(parsed(module))
        if isinstance(node, documented) and marker.search(ast.get_docstring(node) or "")
    ]
    assert not unwritten


def test_options_of_a_run_are_called_run() -> None:
    """A parameter or field of type `RunOptions` is called `run`; `options` are a system's."""
    named = defaultdict(set)
    for module in (name for name in modules() if re.search("RunOptions|SystemOptions", source(name))):
        for node in ast.walk(parsed(module)):
            if isinstance(node, ast.arg) and node.annotation:
                named[ast.unparse(node.annotation).removesuffix(" | None")].add(node.arg)
            elif isinstance(node, ast.AnnAssign):
                named[ast.unparse(node.annotation)].add(ast.unparse(node.target))
    assert named["RunOptions"] == {"run"}
    assert named["SystemOptions"] == {"options"}


def names_defined(module: str) -> Iterator[str]:
    """The names that a module's top level gives to public functions, to classes, and to public types."""
    for node in parsed(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            if isinstance(node, ast.ClassDef) or not node.name.startswith("_"):
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (target.id for target in targets if isinstance(target, ast.Name))
            yield from (name for name in names if re.fullmatch(r"[A-Z]\w*[a-z]\w*", name))


def test_no_public_name_has_two_meanings() -> None:
    """Classes, public types and public functions of the package and the functions have different names."""
    found = defaultdict(list)
    for module in modules():
        if within(module, CORE, "functions") and not within(module, f"{CORE}.testing.servers"):
            for name in names_defined(module):
                found[name].append(module)
    twice = {name: places for name, places in found.items() if len(places) > 1}
    assert not {name: places for name, places in twice.items() if name not in SHARED_NAMES}
    assert not SHARED_NAMES.keys() - twice.keys(), "names that nothing shares any more"


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_a_module_name_of_several_brokers_has_one_documented_meaning() -> None:
    """A module name that two broker packages have is in the table of CONTRIBUTING.md."""
    _, _, table = CONTRIBUTING.partition("| name | has |")
    documented = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    packages = defaultdict(set)
    for name in modules():
        if within(name, BROKERS) and name.count(".") > BROKERS.count(".") + 1:
            package, module = name.split(".")[-2:]
            packages[module].add(package)
    several = {module for module, brokers in packages.items() if len(brokers - {"shared"}) > 1}
    assert several
    assert not several - documented


def planned(text: str) -> set[str]:
    """The files and folders of a plan: a line each, or several beside each other, two spaces a level."""
    found, above = set[str](), [""]
    for line in text.splitlines():
        names = list(takewhile(re.compile(r"[\w./]+(\.py|/)").fullmatch, line.split()))
        level = (len(line) - len(line.lstrip())) // 2
        above[level + 1 :] = [f"{above[level]}{name}" for name in names[:1]]
        found |= {f"{above[level]}{name}".rstrip("/") for name in names}
    return found


def test_the_plan_of_the_code_is_the_folder_listing() -> None:
    """CONTRIBUTING.md shows each module and package of the package, and each folder of tests; all exist."""
    plan = planned(CONTRIBUTING.split("```")[1])
    assert not [name for name in plan if not (ROOT / name).exists()]
    core = ROOT / "core" / CORE
    shown = [*core.iterdir(), *(core / "brokers").iterdir(), *(ROOT / name for name in OURS[1:])]
    shown += [path for path in (ROOT / "tests").iterdir() if path.is_dir()]
    ignored = {"__init__.py", "__pycache__", "py.typed"}
    there = {path.relative_to(ROOT).as_posix() for path in shown if path.name not in ignored}
    assert not there - plan


def test_no_file_is_too_long() -> None:
    """No source file is longer than 500 lines: beyond that it is two."""
    lengths = {name: len(source(name).splitlines()) for name in modules()}
    assert not {name: length for name, length in lengths.items() if length > 500}
