"""Real Pulsar behind a relay that cuts connections at random: nothing is acknowledged that did not arrive.

`pytest tests/real/test_pulsar_gaps.py --seeds 20` is the long form: 20 runs a type, with and without a limit.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from backlog_clearer.testing.servers.pulsar_judge import Case, Judge, unique
from tests.brokers.pulsar_relay import Relay

KINDS = ("exclusive", "failover", "shared", "key_shared")
MESSAGES = 1200
CUTS = 4
A_SECOND = 400  # messages that the limited namespace delivers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """As many random runs as `--seeds` asks for."""
    metafunc.parametrize("seed", range(metafunc.config.getoption("seeds")))


@pytest.fixture(scope="module", params=[0, A_SECOND], ids=["unlimited", "limited"])
def namespace(pulsar_judge: Judge, request: pytest.FixtureRequest) -> str:
    """A namespace that keeps messages, without and with a dispatch rate limit."""
    found = f"public/{unique('gaps')}"
    pulsar_judge.keep(found)
    if request.param:
        pulsar_judge.slow_down(found, request.param)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_was_delivered(
    pulsar_judge: Judge, tmp_path: Path, namespace: str, kind: str, seed: int
) -> None:
    """Connections cut in the middle of frames: every message is counted once, and every one was delivered."""
    case = Case(pulsar_judge, tmp_path)
    case.topic = f"persistent://{namespace}/{unique('log')}"
    pulsar_judge.produce(case.create(), MESSAGES)
    with Relay(pulsar_judge.server.port) as relay:
        case.changes |= {"service_url": relay.url, "subscription_type": kind}
        relay.cuts = set(random.Random(seed).sample(range(10, MESSAGES), CUTS))  # noqa: S311 repeatable
        result = case.clear(workers=1, max_retries=20, quiet_seconds=20, stall_seconds=30)
        assert result.totals.messages == len(relay.delivered) == MESSAGES
    assert (result.cleared, result.verified) == (True, True)
    assert pulsar_judge.backlog(case.topic) == 0
