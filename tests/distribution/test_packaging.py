"""The distribution, built from this checkout and installed as users install it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from uv import find_uv_bin

from backlog_clearer import __version__
from backlog_clearer.registry import SYSTEMS
from tests.paths import ROOT

_NOT_COPIED = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "receipts")
_USERS = ("core/__init__.py", "functions/__init__.py", "cleaner.py", "backlog_clearer_config.py")


@dataclass(frozen=True, slots=True)
class Built:
    """A copy of the checkout and what was built from it."""

    source: Path
    wheel: Path
    sdist: Path


def _run(
    *command: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the checkout, without its module path."""
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL"))
    }
    done = subprocess.run(
        command, cwd=cwd, env={**clean, **(env or {})}, capture_output=True, text=True, check=False,
        timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"
    return done


def _uv(*args: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    return _run(find_uv_bin(), "--no-progress", *args, cwd=cwd, env=env).stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A source distribution of this checkout, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "checkout"
    shutil.copytree(ROOT, source, ignore=_NOT_COPIED)
    _uv("build", "--quiet", "--out-dir", str(folder / "dist"), cwd=source)
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return Built(source, wheel, sdist)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A user's folder whose modules are called as folders of this project, and fail when they run."""
    for name in _USERS:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"raise SystemExit('{name} of the user was run')\n", encoding="utf-8")
    return tmp_path / "work"


def _neighbour(folder: Path) -> Path:
    """The wheel of another distribution, with top-level modules `core`, `functions` and `cleaner`."""
    wheel, info = folder / "neighbour-1-py3-none-any.whl", "neighbour-1.dist-info"
    files = dict.fromkeys(_USERS, "raise ImportError('a module of another distribution')\n")
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: neighbour\nVersion: 1\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(wheel, "w") as out:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            out.writestr(name, text)
    return wheel


def _installed(folder: Path, *what: str) -> Path:
    """The Python of a fresh environment with these distributions."""
    python = folder / "venv" / "bin" / "python"
    _uv("venv", "--quiet", "--python", sys.executable, str(folder / "venv"), cwd=folder)
    _uv("pip", "install", "--quiet", "--python", str(python), *what, cwd=folder)
    return python


def _works(command: Sequence[str], cwd: Path) -> None:
    """Assert that the tool runs and shows the options of a system."""
    assert _run(*command, "--version", cwd=cwd).stdout.strip() == __version__
    assert "--bootstrap-servers" in _run(*command, "kafka", "--help", cwd=cwd).stdout


def test_the_wheel_installs_one_importable_name(built: Built) -> None:
    """The wheel holds `backlog_clearer`, typed, with the contract suite and without the test servers."""
    names = zipfile.ZipFile(built.wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "backlog_clearer",
        f"backlog_clearer-{__version__}.dist-info",
    }
    assert "backlog_clearer/py.typed" in names
    assert "backlog_clearer/testing/contract.py" in names
    assert not [name for name in names if "testing/servers" in name]


def test_every_module_of_the_package_is_in_the_wheel(built: Built) -> None:
    """No package is forgotten: the wheel holds each module of core/ but the test servers."""
    packed = {name for name in zipfile.ZipFile(built.wheel).namelist() if name.endswith(".py")}
    core = ROOT / "core"
    modules = {path.relative_to(core).as_posix() for path in (core / "backlog_clearer").rglob("*.py")}
    assert packed == {name for name in modules if "testing/servers/" not in name}


def test_it_works_beside_packages_and_folders_of_the_same_names(
    built: Built, workplace: Path, tmp_path: Path
) -> None:
    """Neither another distribution's `core` nor the user's own `core/` is imported."""
    python = _installed(tmp_path, f"{built.wheel}[kafka]", str(_neighbour(tmp_path)))
    _works([str(python.with_name("backlog-clearer"))], workplace)
    _works([str(python), "-m", "backlog_clearer"], workplace)


@pytest.mark.parametrize(
    "name", list({system.extra: name for name, system in SYSTEMS.items()}.values())
)
def test_the_extra_of_a_system_is_all_that_its_adapter_needs(
    built: Built, tmp_path: Path, name: str
) -> None:
    """Every module of an adapter imports where only the extra was installed that its hint names."""
    system = SYSTEMS[name]
    python = _installed(
        tmp_path, f"{built.wheel}[{system.extra}]" if system.extra else str(built.wheel)
    )
    package = system.opener.partition(":")[0].rpartition(".")[0]
    folder = ROOT / "core" / Path(*package.split("."))
    modules = [f"{package}.{path.stem}" for path in sorted(folder.glob("[!_]*.py"))]
    _run(str(python), "-c", f"import {', '.join(modules)}", cwd=tmp_path)


def test_pip_finds_all_that_the_requirements_name(built: Built, tmp_path: Path) -> None:
    """`pip install -r requirements.txt` in a checkout finds versions of everything that fit together."""
    _uv("venv", "--quiet", "--seed", "--python", sys.executable, str(tmp_path / "venv"), cwd=tmp_path)
    python, report = tmp_path / "venv" / "bin" / "python", tmp_path / "report.json"
    asked = ("--quiet", "--dry-run", "--report", str(report), "-r", "requirements.txt")
    _run(str(python), "-m", "pip", "install", *asked, cwd=built.source)
    found = {each["metadata"]["name"] for each in json.loads(report.read_text())["install"]}
    assert {"backlog-clearer", "confluent-kafka", "pulsar-client", "azure-eventhub"} <= found


def test_pipx_installs_it(built: Built, workplace: Path, tmp_path: Path) -> None:
    """`pipx install .` in a checkout makes the command."""
    places = {"PIPX_HOME": str(tmp_path / "home"), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    pipx = ("tool", "run", "--quiet", "--python", sys.executable, "pipx")
    _uv(*pipx, "install", "--python", sys.executable, ".", cwd=built.source, env=places)
    _works([str(tmp_path / "bin" / "backlog-clearer")], workplace)


def test_uvx_runs_it(built: Built, workplace: Path) -> None:
    """`uvx --from` a checkout or a source distribution runs the command."""
    uvx = (find_uv_bin(), "tool", "run", "--quiet", "--python", sys.executable)
    for origin in (built.source, built.sdist):
        _works([*uvx, "--from", str(origin), "backlog-clearer"], workplace)
