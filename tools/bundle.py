"""Build the platforms' archives: `python -m tools.bundle gcp|azure|image [--brokers kafka,pulsar]`.

Every archive holds the code, the libraries of the chosen brokers and of the platform for CPython 3.12 on
Linux x86-64 with glibc 2.34 or later, and a requirements.txt with the hash of each. Their versions are
those of functions/requirements.lock (`python -m tools.bundle lock` renews it), so the same sources make
the same bytes, whenever and by whichever Python they are built; only Azure's zip is compressed here, and
another build of zlib may compress it to other bytes.

- gcp: a source zip for Cloud Run functions. The build environment variable
  GOOGLE_VENDOR_PIP_DEPENDENCIES=wheels makes the buildpack install with `--no-index --find-links wheels`:
  https://cloud.google.com/run/docs/runtimes/python-dependencies.
- azure: a deployment zip with everything installed in .python_packages/lib/site-packages, for a
  deployment without remote build: https://learn.microsoft.com/azure/azure-functions/python-build-options.
- image: a Docker build context: `docker build -t NAME - < dist/backlog-clearer-image.tar`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection
from pathlib import Path

import click

from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import suggestion
from backlog_clearer.registry import SYSTEMS, system
from tools.generate import CLOUDS, OTEL

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "core"
LOCK = ROOT / "functions" / "requirements.lock"

_PYTHON = "3.12"
_GLIBC = 34  # 2.34, which Iggy's wheel needs: Google's python312 has 2.35, Azure's and the image 2.36
_UV = (
    *("uv", "pip", "compile", "--quiet", "--no-python-downloads", "--only-binary=:all:"),
    *("--python-version", _PYTHON, "--python-platform", f"x86_64-manylinux_2_{_GLIBC}"),
)
_PIP_FOR_PLATFORM = (
    *("--disable-pip-version-check", "--only-binary=:all:", "--no-deps", "--require-hashes"),
    *("--python-version", _PYTHON, "--implementation", "cp"),
    # pip takes a tag literally, and each costs time on every file of an index: those that wheels have
    *(f"--platform=manylinux_2_{minor}_x86_64" for minor in (_GLIBC, 28, 27, 24, 17)),
    "--platform=manylinux2014_x86_64",  # and older ones
)
_SITE = Path(".python_packages/lib/site-packages")
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold
_TAR_TIME = 315532800  # the same in seconds since 1970


def extras_of(brokers: str | None) -> list[str]:
    """The extras of comma-separated systems; None: of all. Raises `UsageError` with a suggestion."""
    names = list(SYSTEMS) if brokers is None else _names(brokers)
    if not names:
        raise UsageError(f"Name at least one broker: {', '.join(SYSTEMS)}.")
    return sorted({extra for name in names if (extra := system(name).extra)})


def clouds_of(clouds: str) -> list[str]:
    """The extras of comma-separated clouds, maybe none. Raises `UsageError` with a suggestion."""
    for name in _names(clouds):
        if name not in CLOUDS:
            known = ", ".join(CLOUDS)
            raise UsageError(
                f"There is no cloud {name!r}; choose one of {known}.{suggestion(name, list(CLOUDS))}"
            )
    return _names(clouds)


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def locked() -> dict[str, str]:
    """Each `name==version` of the lock, with its entry: that and the hashes of its files."""
    text = LOCK.read_text(encoding="utf-8")
    found = re.finditer(r"^(\S+==\S+) \\\n(?:    --hash=\S+(?: \\)?\n)+", text, re.MULTILINE)
    return {entry[1]: entry[0] for entry in found}


def needed(extras: Collection[str]) -> dict[str, str]:
    """The entries of the lock that these extras need, and no others.

    Raises `UsageError` if the lock does not cover them.
    """
    chosen = [f"--extra={extra}" for extra in extras]
    plain = ("--no-header", "--no-annotate", "--constraint", str(LOCK.relative_to(ROOT)))
    names = _run(*_UV, *plain, *chosen, "pyproject.toml").split()
    lock = locked()
    if missing := [name for name in names if name not in lock]:
        raise UsageError(f"{LOCK.name} lacks {', '.join(missing)}; renew it: make lock")
    return {name: lock[name] for name in names}


def _run(*command: str) -> str:
    """The output of a Python module, run in the project's root; raises `ClickException`."""
    done = subprocess.run(  # noqa: S603 # our own arguments
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[:3])} failed:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def add_code(stage: Path, platform: str, root: Collection[str], source_root: str = ".") -> None:
    """Copy the package, what all handlers share, and one platform's; `root` names its files for the top folder.

    `source_root` is the folder of the bundle that has to be on the module path.

    Raises `UsageError` for a file that is missing.
    """
    handlers = ROOT / "functions" / platform
    package = CORE / "backlog_clearer"
    code = [path for path in package.rglob("*.py") if "testing" not in path.relative_to(package).parts]
    targets = {path: stage / source_root / path.relative_to(CORE) for path in code}
    for path in [*(ROOT / "functions").glob("*.py"), *handlers.rglob("*.py")]:
        targets[path] = stage / path.relative_to(ROOT)
    for path, target in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for name in root:
        if not (handlers / name).is_file():
            raise UsageError(f"functions/{platform}/{name} is missing: nothing can be bundled.")
        (stage / "functions" / platform / name).unlink(missing_ok=True)
        shutil.copyfile(handlers / name, stage / name)


def add_wheels(stage: Path, extras: Collection[str]) -> None:
    """Download the libraries of the extras into wheels/, and write it to requirements.txt with its hashes."""
    entries = needed(extras)
    requirements, wheels = stage / "requirements.txt", stage / "wheels"
    requirements.write_text("".join(entries.values()), encoding="utf-8")
    _run("pip", "download", *_PIP_FOR_PLATFORM, "--dest", str(wheels), "-r", str(requirements))
    have = {hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.iterdir()}
    lines = [
        f"{name} --hash=sha256:{digest}\n"
        for name, entry in entries.items()
        for digest in re.findall(r"--hash=sha256:(\S+)", entry)
        if digest in have
    ]
    requirements.write_text("".join(lines), encoding="utf-8")


def install(stage: Path) -> None:
    """Install wheels/ into .python_packages, and leave nothing there that names this machine."""
    site, wheels = stage / _SITE, stage / "wheels"
    _run(
        *("pip", "install", *_PIP_FOR_PLATFORM, "--no-compile", "--target", str(site)),
        *("--no-index", "--find-links", str(wheels), "-r", str(stage / "requirements.txt")),
    )
    shutil.rmtree(wheels)
    shutil.rmtree(site / "bin", ignore_errors=True)  # scripts that begin with this interpreter's path
    for record in site.glob("*.dist-info/RECORD"):
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("../")]
        record.write_text("".join(kept), encoding="utf-8")


def _files(stage: Path) -> list[tuple[str, Path]]:
    found = [(path.relative_to(stage).as_posix(), path) for path in stage.rglob("*") if path.is_file()]
    return sorted(found)


def write_zip(stage: Path, archive: Path, compression: int) -> None:
    """Pack a folder, the same bytes for the same content."""
    with zipfile.ZipFile(archive, "w") as out:
        for name, path in _files(stage):
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, a plain file
            entry.compress_type = compression
            out.writestr(entry, path.read_bytes())


def write_tar(stage: Path, archive: Path) -> None:
    """Pack a folder, the same bytes for the same content."""
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as out:
        for name, path in _files(stage):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = path.stat().st_size, _TAR_TIME, 0o644
            with path.open("rb") as content:
                out.addfile(entry, content)


def build(platform: str, extras: Collection[str], out: Path) -> Path:
    """Build a platform's archive in a folder.

    Raises `UsageError` if something of it is missing, `ClickException` if uv or pip fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        stage = Path(folder)
        if platform == "gcp":
            add_code(stage, "gcp", ["main.py"])
            add_wheels(stage, ["gcp", OTEL, *extras])
            archive = out / "backlog-clearer-gcp.zip"
            write_zip(stage, archive, zipfile.ZIP_STORED)  # wheels are compressed already
        elif platform == "azure":
            add_code(stage, "azure", ["function_app.py", "host.json"])
            add_wheels(stage, ["azure", OTEL, *extras])
            install(stage)
            archive = out / "backlog-clearer-azure.zip"
            write_zip(stage, archive, zipfile.ZIP_DEFLATED)
        else:
            add_code(stage, "job", ["Dockerfile"], source_root="core")
            for name in ("cleaner.py", "pyproject.toml", "README.md", "LICENSE"):
                shutil.copyfile(ROOT / name, stage / name)
            add_wheels(stage, [OTEL, *extras])
            archive = out / "backlog-clearer-image.tar"
            write_tar(stage, archive)
    return archive


_BROKERS = click.option("--brokers", help="whose libraries are included, as in kafka,pulsar [all]")
_OUT = click.option("--out", default="dist", show_default=True, help="folder of the archive")


def _built(platform: str, brokers: str | None, clouds: str, out: str) -> None:
    try:
        archive = build(platform, [*extras_of(brokers), *clouds_of(clouds)], Path(out))
    except UsageError as error:
        raise click.UsageError(str(error)) from error
    content = archive.read_bytes()
    click.echo(f"{archive}\t{len(content)} bytes\tsha256 {hashlib.sha256(content).hexdigest()}")


@click.group(help=(__doc__ or "").split("\n", maxsplit=1)[0])
def main() -> None:
    """Entry point."""


@main.command()
@_BROKERS
@_OUT
def gcp(brokers: str | None, out: str) -> None:
    """Source zip of the Cloud Run functions."""
    _built("gcp", brokers, "", out)


@main.command()
@_BROKERS
@_OUT
def azure(brokers: str | None, out: str) -> None:
    """Deployment zip of the function app."""
    _built("azure", brokers, "", out)


@main.command()
@_BROKERS
@click.option(
    "--clouds", default=",".join(CLOUDS), show_default=True, help="where receipts go; '' for none"
)
@_OUT
def image(brokers: str | None, clouds: str, out: str) -> None:
    """Docker build context of the job."""
    _built("image", brokers, clouds, out)


@main.command()
def lock() -> None:
    """Renew functions/requirements.lock: the newest versions that pyproject.toml allows."""
    command = ("--all-extras", "--generate-hashes", "--upgrade", "--custom-compile-command=make lock")
    LOCK.write_text(_run(*_UV, *command, "pyproject.toml"), encoding="utf-8")


if __name__ == "__main__":
    main()
