"""Every list of systems is the registry's: a new broker is one line there and one extra."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from backlog_clearer.registry import SYSTEMS, System
from tools import generate

FAKE = System(
    summary="a consumer group on Redis Streams",
    options="backlog_clearer.brokers.redis.options:Options",
    opener="backlog_clearer.brokers.redis.source:open_source",
    extra="redis",
    page="docs/redis.md",
    clears="a consumer group of a stream",
    position="last delivered id",
    unit="entries",
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files that are written, and of pyproject.toml with an extra for the fake system."""
    for name in (*generate.FILES, "pyproject.toml"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(generate.ROOT / name, target)
    project = tmp_path / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    extra = '[project.optional-dependencies]\nredis = ["redis>=5"]'
    project.write_text(text.replace("[project.optional-dependencies]", extra), encoding="utf-8")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    return tmp_path


def test_the_lists_of_systems_are_the_registrys() -> None:
    """No file would be changed by `make generate`."""
    assert list(generate.outdated()) == []


def test_a_new_system_is_added_to_every_list(root: Path) -> None:
    """A line in the registry changes every file, once, and nothing but its list of systems."""
    systems = {**SYSTEMS, "redis-streams": FAKE}
    wanted = generate.outdated(systems)
    assert set(wanted) == set(generate.FILES)
    for name, text in wanted.items():
        assert re.search(r"redis", text), name
        (root / name).write_text(text, encoding="utf-8")
    assert generate.outdated(systems) == {}
    assert "| `redis-streams` | a consumer group of a stream |" in wanted["README.md"]
    assert "| [redis.md](redis.md) | a consumer group on Redis Streams |" in wanted["docs/README.md"]
    assert "iggy & redis & memory\n" in wanted["docs/architecture.md"]
    assert "iggy/ redis/\n" in wanted["CONTRIBUTING.md"]
    assert "iggy,redis]" in wanted["requirements.txt"]
    assert "iggy,redis,gcp" in wanted["functions/job/Dockerfile"]
    for cloud in ("azure", "gcp"):
        text = wanted[f"infra/terraform/{cloud}/variables.tf"]
        assert '"iggy", "redis-streams"], backlog.system)' in text
        assert "iggy or redis-streams, as in" in text
    for name, text in generate.outdated().items():
        (root / name).write_text(text, encoding="utf-8")
    here = Path(__file__).parent.parent
    for name in generate.FILES:
        assert (root / name).read_text(encoding="utf-8") == (here / name).read_text(encoding="utf-8")


def test_an_extra_that_is_not_declared_is_refused() -> None:
    """A system whose extra pyproject.toml lacks would be listed and could not be installed."""
    with pytest.raises(ValueError, match="no extra 'redis'"):
        generate.outdated({**SYSTEMS, "redis-streams": FAKE})


def test_a_file_without_its_list_is_named(root: Path) -> None:
    """A list that was deleted from its file is an error that names the file, not a silent success."""
    (root / "README.md").write_text("# no table\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md: 0 places"):
        generate.outdated()


def test_every_page_of_a_system_exists() -> None:
    """The table links only to files of this repository and to URLs."""
    pages = [system.page for system in SYSTEMS.values() if system.page]
    assert pages
    assert [page for page in pages if "://" not in page and not (generate.ROOT / page).is_file()] == []
