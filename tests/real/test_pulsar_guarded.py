"""Whatever a library raises in any call of Pulsar's adapter is one sentence with the address."""

from __future__ import annotations

import pytest

from backlog_clearer.testing.servers.pulsar_judge import Judge, PulsarBench
from tests.brokers.strange import check_calls


@pytest.mark.parametrize("kind", ["failover", "shared"])
def test_pulsar_names_the_place_of_what_its_libraries_raise(
    pulsar_judge: Judge, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and competing, each call on the real broker ends in one sentence with its address."""
    bench = PulsarBench(pulsar_judge, kind)
    check_calls(bench, "127.0.0.1", monkeypatch)  # the admin API has another port
