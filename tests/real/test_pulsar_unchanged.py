"""Real Pulsar behind an admin API at whose requests topics and subscriptions are created anew, or unloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from backlog_clearer.model import Mode
from backlog_clearer.run import verify
from backlog_clearer.run.report import RunResult
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Case
from backlog_clearer.testing.support import wait_until
from tests.functions.flaky import flaky

COUNT = 50
POSITIONS, CREATED, MOVE = "internalStats", "internal-info", "resetcursor"
BEFORE_MOVE, IN_PROOF = 1, 2  # the requests for positions of a skip, after those of the survey


class Moments:
    """The requests of one skip by their kind, and an act before one of them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.acts: dict[tuple[str, int], Callable[[], object]] = {}

    def fault(self, _method: str, path: str, _body: bytes) -> None:
        """See `Fault`."""
        kind = path.partition("?")[0].rpartition("/")[2]
        self.asked.append(kind)
        act = self.acts.pop((kind, self.asked.count(kind)), None)
        if act:
            act()


@pytest.fixture(params=[1, 2], ids=["cursor in a ledger", "cursor without a ledger"])
def in_survey(request: pytest.FixtureRequest) -> int:
    """How often a survey asks for positions: twice where no ledger tells the cursor from another one."""
    found: int = request.param
    return found


@pytest.fixture
def moments(pulsar_case: Case, in_survey: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moments]:
    """A topic with a backlog, and an admin API that notes what it is asked."""
    monkeypatch.setattr(verify, "WAIT_S", 0.05)
    judge = pulsar_case.judge
    judge.produce(pulsar_case.create(), COUNT)
    if in_survey > 1:  # a topic that is unloaded and loaded again
        judge.reload(pulsar_case.topic)
        wait_until(lambda: judge.cursor(pulsar_case.topic)["cursorLedger"] < 0, "the topic's loading")
    found = Moments()
    with flaky(pulsar_case.judge.server.web, found.fault) as port:
        pulsar_case.changes["admin_url"] = f"http://127.0.0.1:{port}"
        yield found


def skipped(case: Case) -> RunResult:
    """The result of a skip."""
    return case.clear(mode=Mode.SKIP, ages=False)


def subscription_anew(case: Case) -> None:
    """Delete the subscription, and create one of its name at the topic's start."""
    at = f"{case.topic.replace('://', '/')}/subscription/{SUBSCRIPTION}"
    case.judge.admin("DELETE", at)
    case.judge.admin("PUT", at, {"ledgerId": -1, "entryId": -1})


def topic_anew(case: Case) -> None:
    """Delete the topic, and create one of its name with the same number of messages."""
    case.judge.admin("DELETE", case.topic.replace("://", "/"), force="true")
    case.judge.produce(case.create(), COUNT)


@pytest.mark.parametrize(
    ("in_survey", "moment"),
    [(1, BEFORE_MOVE), (1, IN_PROOF), (2, 0), (2, BEFORE_MOVE), (2, IN_PROOF)],
    indirect=["in_survey"],
)
@pytest.mark.parametrize("anew", [subscription_anew, topic_anew])
def test_what_is_created_anew_during_a_skip_keeps_its_backlog(
    pulsar_case: Case, moments: Moments, in_survey: int, anew: Callable[[Case], None], moment: int
) -> None:
    """In the survey, before the move and before the proof: the new one is not moved, and the run fails."""
    moments.acts[POSITIONS, in_survey + moment] = lambda: anew(pulsar_case)
    result = skipped(pulsar_case)
    assert not moments.acts
    assert pulsar_case.judge.backlog(pulsar_case.topic) == COUNT
    assert (result.cleared, result.verified) != (True, True)
    assert "created again" in str(result.partitions[0].error)
    assert moments.asked.count(MOVE) == (moment == IN_PROOF)


def test_what_is_created_anew_before_its_creation_is_asked_for_is_what_the_plan_shows(
    pulsar_case: Case, moments: Moments
) -> None:
    """A subscription that is created anew early in the survey is surveyed itself, so that it is skipped."""
    moments.acts[CREATED, 1] = lambda: subscription_anew(pulsar_case)
    result = skipped(pulsar_case)
    assert (result.cleared, result.verified, moments.acts) == (True, True, {})
    assert pulsar_case.judge.backlog(pulsar_case.topic) == 0


@pytest.mark.parametrize("moment", [BEFORE_MOVE, IN_PROOF])
def test_a_topic_that_is_unloaded_during_a_skip_is_still_the_same(
    pulsar_case: Case, moments: Moments, in_survey: int, moment: int
) -> None:
    """Where another ledger has begun meanwhile, its creation is asked for again, and the skip is verified."""
    moments.acts[POSITIONS, in_survey + moment] = lambda: pulsar_case.judge.reload(pulsar_case.topic)
    result = skipped(pulsar_case)
    assert (result.cleared, result.verified, moments.acts) == (True, True, {}), result
    assert moments.asked.count(CREATED) > 1
    assert pulsar_case.judge.backlog(pulsar_case.topic) == 0


def test_a_skip_asks_once_when_a_partition_was_created(
    pulsar_case: Case, moments: Moments, in_survey: int
) -> None:
    """The slowest request is made in the survey only; positions show that nothing was created anew since."""
    assert skipped(pulsar_case).verified
    assert [moments.asked.count(kind) for kind in (CREATED, MOVE, "stats")] == [1, 1, 1]
    assert moments.asked.count(POSITIONS) == in_survey + IN_PROOF
    assert pulsar_case.judge.backlog(pulsar_case.topic) == 0
