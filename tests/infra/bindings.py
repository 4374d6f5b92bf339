"""The published CDK bindings of Terraform providers, from which their schemas are derived."""

from __future__ import annotations

import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from backlog_clearer.testing.support import cached
from tests.infra.packages import download

_KEPT = re.compile(r"package/lib/(?P<path>[\w-]+/(?:[\w-]+/)?[\w-]+\.js)$")


@dataclass(frozen=True, slots=True)
class Bindings:
    """One wheel on PyPI and the provider version that it was generated from (as its class comments state)."""

    provider: str
    """The provider's short name, as `google`."""
    version: str
    """The provider's version."""
    wheel: str
    """The wheel as pip names it, with its version."""

    def sources(self) -> zipfile.ZipFile:
        """The generated JavaScript, one folder a resource; downloaded once. Skips without PyPI."""
        with cached(f"bindings-{self.provider}-{self.version}") as (folder, complete):
            path = folder / "lib.zip"
            if not complete:
                _repack(download(self.wheel, folder), path)
        return zipfile.ZipFile(path)


AWS_6 = Bindings("aws", "6.69.1", "cdktn-provider-aws==25.8.1")
GOOGLE_7 = Bindings("google", "7.46.1", "cdktn-provider-google==20.3.1")
GOOGLE_8 = Bindings("google", "8.7.0", "cdktn-provider-google==21.1.0")
AZURERM_4 = Bindings("azurerm", "4.81.0", "cdktn-provider-azurerm==17.0.0")
AZURERM_5 = Bindings("azurerm", "5.10.0", "cdktn-provider-azurerm==18.9.0")
TIME = Bindings("time", "0.14.2", "cdktn-provider-time==14.0.2")
KUBERNETES_3 = Bindings("kubernetes", "3.4.0", "cdktn-provider-kubernetes==17.1.0")


def _repack(wheel: Path, target: Path) -> None:
    """Keep only the code, in a form that can be read file by file: a tenth of the size."""
    with (
        zipfile.ZipFile(wheel) as outer,
        outer.open(next(name for name in outer.namelist() if name.endswith(".tgz"))) as packed,
        tarfile.open(fileobj=packed, mode="r|gz") as inner,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as kept,
    ):
        for member in inner:
            found = _KEPT.match(member.name)
            content = inner.extractfile(member) if found else None
            if found and content:
                kept.writestr(found["path"], content.read())
    wheel.unlink()
