"""Terraform on copies of the modules, offline, with the providers that the machine has or stubs of them."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backlog_clearer.testing.support import need, unavailable
from tests.infra.bindings import Bindings
from tests.infra.packages import environment
from tests.infra.provider_schema import derive

PROTOCOL = "tf==1.2.0"
"""The package with the plugin protocol's generated code. It pins an old protobuf: hence its own venv."""

USED: set[tuple[str, str]] = set()
"""Modules that were prepared, each with how its providers were had; `conftest.py` prints it."""

_SOURCE = re.compile(r'source\s*=\s*"hashicorp/([a-z]+)"')
_TYPE = re.compile(r'\b(resource|data|mock_resource|mock_data)\s+"(\w+)"')
_PIN = re.compile(r'(source\s*=\s*"hashicorp/(\w+)"\n\s*version\s*=\s*)"~> (\d+)[.\d]*"')
_PROVIDERS = "*/hashicorp/{name}/*/{platform}/terraform-provider-{name}*"


@dataclass(frozen=True, slots=True)
class Terraform:
    """Terraform with a mirror of providers that it takes instead of any registry."""

    config: Path
    """The CLI configuration that names the mirror."""
    providers: Mapping[str, str]
    """By name: the version, and whether it is the provider itself or checks only the schema."""
    stubs: Mapping[str, Path] = field(default_factory=dict)
    """By address: the program of a stub."""

    def run(
        self, folder: Path, *args: str, env: Mapping[str, str] | None = None, timeout_s: float = 280
    ) -> subprocess.CompletedProcess[str]:
        """Run it in this folder; the caller looks at the exit code."""
        own = {
            "TF_CLI_CONFIG_FILE": str(self.config),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
        }
        return subprocess.run(
            ["terraform", *args],
            cwd=folder,
            env={**_environ(), **own, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def init(self, folder: Path) -> None:
        """Install modules and providers; the module's version bounds have to admit those of the mirror."""
        done = self.run(folder, "init", "-backend=false", "-input=false", "-no-color")
        assert done.returncode == 0, f"terraform init in {folder}:\n{done.stdout}{done.stderr}"

    def validate(self, folder: Path) -> list[str]:
        """The findings of `terraform validate`, warnings included; empty if there are none."""
        done = self.run(folder, "validate", "-json")
        return [_sentence(item) for item in json.loads(done.stdout)["diagnostics"]]

    @contextmanager
    def _standing(self) -> Iterator[dict[str, str]]:
        """Each stub started once: Terraform would start it for every step of every run, 142 times for GCP."""
        with ExitStack() as stack:
            reached = {}
            for address, program in self.stubs.items():
                command = [str(program), "--standing"]
                process = stack.enter_context(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                )
                assert process.stdout is not None
                reached[address] = json.loads(process.stdout.readline())
            yield {"TF_REATTACH_PROVIDERS": json.dumps(reached)} if reached else {}

    def test(self, folder: Path, *args: str) -> tuple[list[str], dict[str, Any]]:
        """The failures of `terraform test`, and the plan of each run (with `-verbose`)."""
        with self._standing() as env:
            done = self.run(folder, "test", "-json", "-no-color", *args, env=env)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        faults = [_sentence(line["diagnostic"]) for line in lines if line["type"] == "diagnostic"]
        ended = [line for line in lines if line.get("test_run", {}).get("progress") == "complete"]
        runs = {line["@testrun"]: line["test_run"]["status"] for line in ended}
        faults += [f"run {name}: {status}" for name, status in runs.items() if status != "pass"]
        if not runs:
            faults.append(f"no run: {done.stdout}{done.stderr}")
        plans = {
            line["@testrun"]: line[line["type"]]
            for line in lines
            if line["type"] in {"test_plan", "test_state"}
        }
        return faults, plans


def prepare(module: Path, folder: Path, *bindings: Bindings) -> tuple[Terraform, Path]:
    """A copy of a module's folder, and a Terraform whose mirror holds the providers that it names.

    A provider that the machine has is used; for the others a stub made from these bindings is used.
    """
    need("terraform")
    copy = folder / module.name
    ignored = shutil.ignore_patterns(".terraform*", "*.tfstate*")
    shutil.copytree(module, copy, ignore=ignored)
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(copy.rglob("*.tf*")))
    text += "\n".join(path.read_text(encoding="utf-8") for path in sorted(copy.rglob("*.md")))
    mirror, providers, stubs = folder / "mirror", {}, {}
    known = {item.provider: item for item in bindings}
    for name in sorted(set(_SOURCE.findall(text))):
        real = _real(name, known.get(name))
        if real is not None:
            version = real.parent.name
            target = _place(mirror, name, version)
            target.parent.mkdir(parents=True)
            target.symlink_to(real, target_is_directory=True)
            providers[name] = f"{version}, the provider itself"
        elif name in known:
            place = _place(mirror, name, known[name].version)
            address = str(place.parent.parent.relative_to(mirror))
            stubs[address] = _stub(known[name], text, place)
            providers[name] = f"{known[name].version}, schema-checked (nothing is applied)"
        else:
            unavailable(f"needs the Terraform provider hashicorp/{name} in a plugin folder")
    _lift_pins(copy, providers)
    USED.add((module.name, "; ".join(f"{name} {how}" for name, how in providers.items())))
    config = folder / "terraform.rc"
    config.write_text(
        f"provider_installation {{\n  filesystem_mirror {{ path = {json.dumps(str(mirror))} }}\n}}\n"
    )
    return Terraform(config, providers, stubs), copy


def _lift_pins(copy: Path, providers: Mapping[str, str]) -> None:
    """Let examples, which pin one major version of each provider, take the mirror's where it is another."""

    def lifted(pin: re.Match[str]) -> str:
        mirrored = providers[pin[2]].split(".")[0]
        return pin[0] if pin[3] == mirrored else f'{pin[1]}">= {mirrored}"'

    for path in copy.glob("examples/*/*.tf"):
        path.write_text(_PIN.sub(lifted, path.read_text(encoding="utf-8")), encoding="utf-8")


def _stub(bindings: Bindings, text: str, target: Path) -> Path:
    """A provider's folder of the mirror, with a script that serves the types that the text names."""
    names: dict[str, list[str]] = {"resource": [], "data": []}
    for kind, name in _TYPE.findall(text):
        if name.startswith(f"{bindings.provider}_"):
            names[kind.removeprefix("mock_")].append(name)
    python = environment("terraform-stub", PROTOCOL)
    target.mkdir(parents=True)
    schema = target / "schema.json"
    schema.write_text(json.dumps(asdict(derive(bindings, names["resource"], names["data"]))))
    script = target / f"terraform-provider-{bindings.provider}_v{bindings.version}"
    server = Path(__file__).with_name("stub_provider.py")
    command = shlex.join(map(str, (python, server, schema)))
    script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    script.chmod(0o755)
    return script


def _real(name: str, bindings: Bindings | None) -> Path | None:
    """The folder of the newest provider binary on the machine, of the same major version as the stub."""
    found = [
        path.parent
        for root in _plugin_folders()
        for path in root.glob(_PROVIDERS.format(name=name, platform=_platform()))
        if bindings is None or path.parent.parent.name.split(".")[0] == bindings.version.split(".")[0]
    ]
    return max(
        found, key=lambda path: [int(part) for part in path.parent.name.split(".")], default=None
    )


@functools.cache
def _plugin_folders() -> tuple[Path, ...]:
    """Folders that may hold providers: what Terraform's configuration names, its usual folders, and /opt."""
    places = [os.environ.get("TF_PLUGIN_CACHE_DIR", "")]
    config = Path(os.environ.get("TF_CLI_CONFIG_FILE", "~/.terraformrc")).expanduser()
    if config.is_file():
        places += re.findall(r'(?:path|plugin_cache_dir)\s*=\s*"([^"]+)"', config.read_text())
    places += ["~/.terraform.d/plugins", "~/.local/share/terraform/plugins"]
    places += ["/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins"]
    found = [Path(place).expanduser() for place in places if place]
    return tuple(path for path in (*found, *Path("/opt").glob("*")) if path.is_dir())


@functools.cache
def _platform() -> str:
    """As `linux_amd64`."""
    done = subprocess.run(
        ["terraform", "version", "-json"], env=_environ(), capture_output=True, check=True, timeout=60
    )
    return str(json.loads(done.stdout)["platform"])


def _place(mirror: Path, name: str, version: str) -> Path:
    """A provider's folder in a mirror, which begins with the registry's name as Terraform spells it."""
    scratch = mirror / ".spelling"
    scratch.mkdir(parents=True, exist_ok=True)
    requirement = f'{name} = {{ source = "hashicorp/{name}" }}'
    (scratch / "main.tf").write_text(
        f"terraform {{\n  required_providers {{\n    {requirement}\n  }}\n}}\n"
    )
    done = subprocess.run(
        ["terraform", "providers"],
        cwd=scratch,
        env=_environ(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    shutil.rmtree(scratch)
    spelled = re.search(r"provider\[([^\]]+)\]", done.stdout)
    assert spelled is not None, done.stdout
    return mirror / spelled[1] / version / _platform()


def _environ() -> dict[str, str]:
    """The environment without variables that change what Terraform does, or with which account."""
    changed = ("TF_", "AWS_PROFILE")
    return {name: value for name, value in os.environ.items() if not name.startswith(changed)}


def _sentence(diagnostic: Mapping[str, Any]) -> str:
    """A diagnostic on one line, with its place."""
    where = diagnostic.get("range")
    place = f"{where['filename']}:{where['start']['line']}: " if where else ""
    detail = " ".join(diagnostic.get("detail", "").split())
    return f"{place}{diagnostic['severity']}: {diagnostic['summary']}. {detail}"
