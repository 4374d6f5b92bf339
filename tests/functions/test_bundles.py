"""The bundles as a platform gets them: unpacked, and their entry points loaded from nothing else."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import uv  # noqa: F401 # what tools.bundle runs
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.functions.python312 import python312
from tools import bundle, generate

CHOSEN = {
    "gcp": ["gcp", "--brokers", "kafka"],
    "azure": ["azure", "--brokers", "kafka"],
    "image": ["image", "--brokers", "kafka", "--clouds", ""],
}
OWN = "backlog-clearer"
SITE = ".python_packages/lib/site-packages"
FOR_3_12 = {
    "python_version": "3.12", "python_full_version": "3.12.1", "sys_platform": "linux",
    "platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython",
    "platform_python_implementation": "CPython", "os_name": "posix",
}  # fmt: skip


class Built(NamedTuple):
    """A bundle built twice, and unpacked."""

    platform: str
    archives: tuple[Path, Path]
    folder: Path

    @property
    def files(self) -> dict[str, Path]:
        """Every file that was in it, by its path in the archive."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    @property
    def libraries(self) -> set[str]:
        """Names of the distributions in it."""
        wheels = [Path(name).name for name in self.files if name.endswith(".whl")]
        installed = [
            Path(name).parts[-2] for name in self.files if name.endswith(".dist-info/METADATA")
        ]
        return {canonicalize_name(name.split("-")[0]) for name in wheels + installed}


def libraries_of_others(platform: str) -> set[str]:
    """Libraries of the brokers and clouds that are not chosen, unless something chosen depends on them.

    Taken from pyproject.toml and from the comments of the lock, which name what depends on each library.
    """
    extras: dict[str, set[str]] = {
        name: {str(canonicalize_name(Requirement(text).name)) for text in requirements}
        for name, requirements in generate.declared_extras().items()
    }
    chosen = {"kafka", platform, generate.OTEL} & set(extras)
    library = ""
    needed_by: dict[str, set[str]] = {}
    for line in bundle.LOCK.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"([a-z0-9-]+)==", line):
            library = found[1]
        elif found := re.match(r"    #   ([a-z0-9-]+)|    # via ([a-z0-9-]+)", line):
            needed_by.setdefault(library, set()).add(found[1] or found[2])
    inside = set.union(*(extras[name] for name in chosen))
    while more := {name for name, parents in needed_by.items() if parents & inside} - inside:
        inside |= more
    return set.union(*(extras[name] for name in set(extras) - chosen)) - inside - {OWN}


def tool(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the bundler as make does."""
    return subprocess.run(
        [sys.executable, "-m", "tools.bundle", *args],
        cwd=bundle.ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip


def archive(platform: str, out: Path) -> Path:
    """Build one."""
    done = tool(*CHOSEN[platform], "--out", str(out))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split("\t")[0])


@pytest.fixture(scope="module", params=list(CHOSEN))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Each of them, with only Kafka."""
    out = tmp_path_factory.mktemp(request.param)
    archives = archive(request.param, out / "first"), archive(request.param, out / "second")
    shutil.unpack_archive(archives[0], out / "unpacked")
    return Built(request.param, archives, out / "unpacked")


@pytest.fixture(scope="module")
def python() -> str:
    """A CPython 3.12, for which the bundles are made."""
    return python312()


def alone(python: str, folders: Sequence[Path], code: str, env: Mapping[str, str] | None = None) -> str:
    """Run code with the standard library and these folders, and no other; its output."""
    done = subprocess.run(
        [python, "-I", "-S", "-c", f"import sys; sys.path[:0] = {[*map(str, folders)]!r}\n{code}"],
        cwd=folders[0], env=dict(env or {}), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def clean(command: Sequence[str] | str, folder: Path, path: str = os.defpath) -> None:
    """Run a command without this machine's settings of pip."""
    done = subprocess.run(
        command, shell=isinstance(command, str), cwd=folder, env={"PATH": path, "HOME": str(folder)},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def configuration(folder: Path) -> dict[str, str]:
    """What every handler reads at its start."""
    options = {"bootstrap_servers": "broker:9092", "topic": "orders", "group_id": "billing"}
    backlogs = {"orders": {"system": "kafka", "options": options}}
    return {
        "BACKLOG_CLEARER_CONFIG": json.dumps({"receipts": str(folder), "backlogs": backlogs}),
        "BACKLOG_CLEARER_DEADLINE_S": "1680",
    }


def test_two_builds_have_the_same_bytes(built: Built) -> None:
    """Two builds of the same sources have the same hash, so that a plan shows no false change."""
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in built.archives)
    assert first == second


def test_only_the_chosen_broker_is_included(built: Built) -> None:
    """The library of the chosen broker is included, and none of another broker or cloud."""
    assert "confluent-kafka" in built.libraries
    assert not built.libraries & libraries_of_others(built.platform)
    own = "job" if built.platform == "image" else built.platform
    folders = {name.split("/")[1] for name in built.files if re.match(r"functions/\w+/", name)}
    assert folders == {own}


def test_a_bundle_holds_only_code_of_this_project(built: Built) -> None:
    """No tests, no bytecode, and nothing that names the folders of the machine that built it."""
    places = [str(bundle.ROOT).encode(), sys.prefix.encode(), sys.executable.encode()]
    top = {name.split("/")[0] for name in built.files}
    assert top <= {
        "backlog_clearer", "core", "functions", "wheels", ".python_packages", "requirements.txt", "main.py",
        "function_app.py", "host.json", "Dockerfile", "cleaner.py", "pyproject.toml", "README.md", "LICENSE",
    }  # fmt: skip
    assert not [name for name in built.files if "__pycache__" in name or f"{SITE}/bin/" in name]
    for name, path in built.files.items():
        content = path.read_bytes()
        assert not [place for place in places if place in content], name


def test_every_installed_library_is_pinned(built: Built) -> None:
    """requirements.txt names every library that is in it, each with one version and one hash."""
    lines = built.files["requirements.txt"].read_text().splitlines()
    pinned = re.compile(r"([a-z0-9-]+)==\S+ --hash=sha256:[0-9a-f]{64}")
    matches = [pinned.fullmatch(line) for line in lines]
    assert {match and match[1] for match in matches} == built.libraries
    assert len(lines) == len(built.libraries)


@pytest.mark.parametrize("built", ["gcp", "azure"], indirect=True)
def test_the_functions_load_from_their_zip(built: Built, python: str, tmp_path: Path) -> None:
    """Each platform installs it as it does and finds every entry point that its settings name."""
    if built.platform == "gcp":
        # The buildpack's own line, with a folder instead of --user: pkg/python/python.go of
        # GoogleCloudPlatform/buildpacks.
        install = (
            "-m pip install --requirement requirements.txt --upgrade --upgrade-strategy only-if-needed"
            " --no-warn-script-location --no-warn-conflicts --force-reinstall --no-compile"
            " --disable-pip-version-check --no-cache-dir --no-index --find-links wheels --target"
        )
        clean([python, *install.split(), str(tmp_path / "site")], built.folder)
        env = {
            "BACKLOG_CLEARER_TASKS_QUEUE": "projects/p/locations/l/queues/q",
            "BACKLOG_CLEARER_DRAIN_URL": "http://drain.functions/",
            "BACKLOG_CLEARER_INVOKER": "invoker@shop.iam.example",
        }
        folders = [built.folder, tmp_path / "site"]
        code = "import main, functions_framework; print(callable(main.dispatch), callable(main.drain))"
        expected = "True True"
    else:
        env = {
            "BACKLOG_CLEARER_QUEUE": "slices",
            "BACKLOG_CLEARER_STORAGE__queueServiceUri": "https://account.queue.core.windows.net",
            "BACKLOG_CLEARER_SCHEDULE": "0 0 3 * * *",
            "BACKLOG_CLEARER_SCHEDULED": "orders",
        }
        folders = [built.folder, built.folder / SITE]
        code = (
            "import function_app;"
            "print(*sorted(one.get_function_name() for one in function_app.app.get_functions()))"
        )
        expected = "dispatch drain poisoned runs scheduled"
    printed = alone(python, folders, code, {**configuration(tmp_path), **env})
    assert printed.split("\n")[-2] == expected


def instruction(dockerfile: str, name: str) -> str:
    """The one instruction of this name that installs, without its line breaks."""
    joined = dockerfile.replace("\\\n", " ")
    found = [line for line in joined.splitlines() if line.startswith(f"{name} ")]
    return next(line for line in found if name != "RUN" or "pip install" in line).partition(" ")[2]


@pytest.mark.parametrize("built", ["image"], indirect=True)
def test_the_image_runs_from_its_context(built: Built, python: str, tmp_path: Path) -> None:
    """The Dockerfile's own install step needs no index, and its entry point then starts."""
    dockerfile = built.files["Dockerfile"].read_text()
    app = tmp_path / "app"
    shutil.copytree(built.folder, app)
    clean([python, "-m", "venv", str(tmp_path / "base")], tmp_path)
    step = instruction(dockerfile, "RUN").replace("/install", str(tmp_path / "install"))
    clean(step, app, f"{tmp_path}/base/bin:{os.defpath}")
    assert not (app / "wheels").exists()
    entry = json.loads(instruction(dockerfile, "ENTRYPOINT"))
    assert entry[:2] == ["python", "-m"]
    code = (
        f"import runpy; sys.argv = [{entry[2]!r}, '--help'];"
        f"runpy.run_module({entry[2]!r}, run_name='__main__', alter_sys=True)"
    )
    site = tmp_path / "install/lib/python3.12/site-packages"
    assert "--backlog" in alone(python, [app, app / "core", site], code)
    assert re.search(r"^USER 10001$", dockerfile, re.MULTILINE)
    base = re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    assert base
    assert re.fullmatch(r"python:3\.12-slim-bookworm@sha256:[0-9a-f]{64}", base[1])


def test_it_runs_on_the_platforms_glibc(built: Built) -> None:
    """No binary asks for more than glibc 2.34: Google's runtime has 2.35, Azure's and the image's 2.36."""
    asked: dict[str, int] = {}
    for name, path in built.files.items():
        if name.endswith(".whl"):
            with zipfile.ZipFile(path) as wheel:
                binaries = [wheel.read(item) for item in wheel.namelist() if ".so" in item]
        else:
            binaries = [path.read_bytes()] if ".so" in name else []
        versions = [int(at) for binary in binaries for at in re.findall(rb"GLIBC_2\.(\d+)", binary)]
        if versions:
            asked[name] = max(versions)
    assert any("confluent_kafka" in name for name in asked)
    assert {name: version for name, version in asked.items() if version > 34} == {}


def test_the_lock_holds_what_pyproject_asks_for() -> None:
    """Every requirement of every extra is in the lock, at a version within its bounds."""
    locked = dict(name.split("==") for name in bundle.locked())
    asked = [Requirement(text) for text in importlib.metadata.requires(OWN) or []]
    extras = importlib.metadata.metadata(OWN).get_all("Provides-Extra") or []
    assert {*generate.CLOUDS, generate.OTEL, *bundle.extras_of(None)} <= set(extras)
    for each in asked:
        environments = [{**FOR_3_12, "extra": extra} for extra in ["", *extras]]
        if each.name == OWN:  # an extra that includes another one
            assert each.extras <= set(extras)
        elif each.marker is None or any(map(each.marker.evaluate, environments)):
            assert each.specifier.contains(locked[canonicalize_name(each.name)]), each


def test_the_lock_holds_nothing_else() -> None:
    """The lock holds what all extras need together, and nothing else."""
    everything = [*generate.CLOUDS, generate.OTEL, *bundle.extras_of(None)]
    assert set(bundle.needed(everything)) == set(bundle.locked())


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["gcp", "--brokers", "kafka,pulsr"], "Did you mean 'pulsar'?"),
        (["azure", "--brokers", ","], "Name at least one broker"),
        (["image", "--brokers", "kafka", "--clouds", "azur"], "Did you mean 'azure'?"),
    ],
)
def test_a_mistyped_name_builds_nothing(args: Sequence[str], expected: str, tmp_path: Path) -> None:
    """A mistyped broker or cloud ends with 2 and the nearest name, and builds nothing."""
    done = tool(*args, "--out", str(tmp_path / "dist"))
    assert (done.returncode, (tmp_path / "dist").exists()) == (2, False)
    assert expected in done.stderr
