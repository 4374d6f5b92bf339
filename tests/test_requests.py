"""Hostile requests: each is refused in one short sentence, which shows nothing of it."""

from __future__ import annotations

import json

import pytest

from backlog_clearer.errors import UsageError
from backlog_clearer.fanout.configuration import VARIABLE, parse_request
from backlog_clearer.options.base import Options, build
from backlog_clearer.options.layers import build_options
from backlog_clearer.registry import SYSTEMS, options_model
from functions.job import main as job
from tests.hostile import BODIES, UNUSABLE
from tests.secret_paths import SYSTEMS as CALLS
from tests.secret_paths import configuration


def check(text: str) -> None:
    """One short sentence, without a line break and a NUL."""
    assert 10 < len(text) < 200, text[:300]
    assert "\n" not in text
    assert "\0" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_request_is_refused_in_a_short_sentence(name: str) -> None:
    """Infinity, NUL, a key twice, `true` as a number, a million unknown keys, nesting: one sentence each."""
    with pytest.raises(UsageError) as refused:
        parse_request(BODIES[name])
    check(str(refused.value))


@pytest.mark.parametrize("args", UNUSABLE, ids=str)
def test_hostile_arguments_of_a_job_are_refused_in_a_short_sentence(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job exits with 2, and its error is one sentence."""
    monkeypatch.setenv(VARIABLE, json.dumps(configuration()))
    with pytest.raises(SystemExit) as ended:
        job.main(["--backlog", "orders", *args])
    assert ended.value.code == 2
    check(json.loads(capsys.readouterr().out)["error"])


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_value_of_any_option_may_have_a_nul(system: str) -> None:
    """Each option of each system that takes text refuses a NUL, with the option's name, before a connection."""
    given = dict(zip(CALLS[system][::2], CALLS[system][1::2], strict=True))
    values = {name.lstrip("-").replace("-", "_"): value for name, value in given.items()}
    model = options_model(system)
    checked = 0
    for name in model.model_fields:
        if name == "settings":
            continue
        with pytest.raises(UsageError, match=rf"--{name.replace('_', '-')}: it contains a NUL"):
            build_options(model, {**values, name: "a\0b"})
        checked += 1
    assert checked > 5


@pytest.mark.parametrize("value", ["\0", "a\0", ["t", "\0"]])
def test_a_topic_of_one_nul_is_refused(value: object) -> None:
    """Alone, at an end and in a list, in the settings, too."""
    for field in ("topic", "settings"):
        values = {"bootstrap_servers": "b:1", "group_id": "g", "topic": "t"}
        changed = {"sasl.password": "a\0b"} if field == "settings" else value
        with pytest.raises(UsageError, match=f"--{field}: it contains a NUL"):
            build(options_model("kafka"), {**values, field: changed})


def test_no_number_of_any_option_may_be_infinite() -> None:
    """Infinity and NaN are not numbers of seconds, in any model."""

    class Seconds(Options):
        seconds: float

    for text in ("inf", "1e999", "nan", "-inf"):
        with pytest.raises(UsageError, match="--seconds"):
            build(Seconds, {"seconds": text})
