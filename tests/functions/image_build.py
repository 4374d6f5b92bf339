"""The image as its Dockerfile makes it, built by buildah on a base like python:3.12-slim-bookworm.

Registries of images are not reachable everywhere, so the base is made: Debian's minimal system of the same
release by debootstrap, and the CPython 3.12 of this machine in /usr/local.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backlog_clearer.testing.support import cached, need, unavailable
from tests.paths import ROOT

_LIBRARIES = (
    "ca-certificates,libbz2-1.0,libexpat1,libffi8,liblzma5,libreadline8,libsqlite3-0,libssl3,zlib1g"
)
_UNNEEDED = ("var/cache", "var/lib/apt/lists/*", "usr/share/doc", "usr/share/locale", "usr/share/man")
_PIP = '#!/bin/sh\nexec /usr/local/bin/python -m pip "$@"\n'
_BASE = "FROM scratch\nADD base.tar /\nENV PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"


@dataclass(frozen=True)
class Image:
    """A built image: what a container of it starts, as which user, on which files."""

    config: dict[str, Any]  # `config` of the OCI image
    root: Path

    def command(self, receipts: Path, environ: dict[str, str], *args: str) -> list[str]:
        """Run the image's entry point as process 1, without privileges, on a read-only file system.

        `receipts` is mounted at /mnt; process ids, users and mounts are the container's own, the network is
        the machine's. The first line on standard error is JSON with "child-pid", the process 1 as seen
        from outside.
        """
        user = self.config["User"]
        variables = dict(item.split("=", 1) for item in self.config["Env"]) | environ
        settings = [word for name, value in variables.items() for word in ("--setenv", name, value)]
        return [
            "bwrap", "--info-fd", "2", "--die-with-parent", "--clearenv", *settings,
            "--unshare-user", "--uid", user, "--gid", user, "--unshare-pid", "--as-pid-1",
            "--ro-bind", str(self.root), "/", "--proc", "/proc", "--dev", "/dev",
            "--bind", str(receipts), "/mnt", "--chdir", self.config["WorkingDir"],
            *self.config["Entrypoint"], *args,
        ]  # fmt: skip


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def _base(python: str) -> Path:
    """A folder with a Dockerfile of the base; made once."""
    need("debootstrap", "tar")
    if os.geteuid() != 0:
        unavailable("needs root, for debootstrap")
    prefix = Path(_run(python, "-c", "import sys; print(sys.base_prefix)").strip())
    if prefix in (Path("/usr"), Path("/usr/local")):
        unavailable("needs a CPython 3.12 in a separate folder, as pyenv makes it")
    with cached("image-base-3.12") as (folder, complete):
        root = folder / "root"
        if not complete:
            shutil.rmtree(root, ignore_errors=True)
            _run("debootstrap", "--variant=minbase", f"--include={_LIBRARIES}", "bookworm", str(root))
            local = root / "usr" / "local"
            left_out = shutil.ignore_patterns(
                "test", "tests", "idlelib", "__pycache__", "*.a", "site-packages"
            )
            shutil.copytree(prefix, local, symlinks=True, ignore=left_out, dirs_exist_ok=True)
            packages = Path("lib", "python3.12", "site-packages")
            for name in ("pip", next((prefix / packages).glob("pip-*")).name):
                shutil.copytree(prefix / packages / name, local / packages / name)
            (local / "bin" / "pip").write_text(_PIP)
            _run("chroot", str(root), "/sbin/ldconfig")
            without = [f"--exclude=./{name}" for name in _UNNEEDED]
            _run("tar", "-C", str(root), *without, "-cf", str(folder / "base.tar"), ".")
            shutil.rmtree(root)
            (folder / "Dockerfile").write_text(_BASE)
    return folder


@contextmanager
def built(python: str, folder: Path) -> Iterator[Image]:
    """The image for Kafka and AWS, from the build context that `make image-context` makes."""
    need("buildah", "bwrap")
    base = _base(python)
    chosen = ("--brokers", "kafka", "--clouds", "aws", "--out", str(folder))
    _run(sys.executable, "-m", "tools.bundle", "image", *chosen, cwd=ROOT)
    store = (
        "--root",
        str(folder / "store"),
        "--runroot",
        str(folder / "run"),
        "--storage-driver",
        "vfs",
    )

    def buildah(*args: str | Sequence[str]) -> str:
        words = [word for part in args for word in ((part,) if isinstance(part, str) else part)]
        return _run("buildah", *store, *words)

    build = ("build", "--quiet", "--isolation", "chroot")
    buildah(build, "--tag", "base", str(base))
    context = folder / "context"
    context.mkdir()
    _run("tar", "-C", str(context), "-xf", str(folder / "backlog-clearer-image.tar"))
    buildah(build, "--build-arg", "BASE=localhost/base", "--tag", "job", str(context))
    config = json.loads(buildah("inspect", "--type", "image", "job"))["OCIv1"]["config"]
    yield Image(config, Path(buildah("mount", buildah("from", "job").strip()).strip()))
    shutil.rmtree(folder / "store", ignore_errors=True)
