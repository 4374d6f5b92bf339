"""Pulsar's figures from an admin API that answers wrongly: none of them becomes a number."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from backlog_clearer.brokers.pulsar.figures import FigureError
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.pulsar.positions import Hole, Place, parse_holes, parse_layout, parse_place
from backlog_clearer.brokers.pulsar.source import PulsarSource, open_source
from backlog_clearer.errors import BrokerError, TransientError
from backlog_clearer.model import Claim, Partition, PartitionState, Recorded
from backlog_clearer.options.run import RunOptions
from backlog_clearer.testing.support import answering

TOPIC = "persistent://public/default/orders"
GOOD, BAD = Partition(TOPIC, 0), Partition(TOPIC, 1)
CURSOR = {"markDeletePosition": "7:1", "individuallyDeletedMessages": "[(7:3..7:5]]"}
LAYOUT: dict[str, Any] = {
    "lastConfirmedEntry": "8:9",
    "currentLedgerEntries": 10,
    "ledgers": [{"ledgerId": 7, "entries": 6}, {"ledgerId": 8, "entries": 0}],
    "cursors": {"billing": CURSOR},
}
BACKLOG = 2 + 10  # 7:2 and 7:3, then all of ledger 8
SUBSCRIPTION: dict[str, Any] = {
    "type": "Shared",
    "consumers": [],
    "msgDelayed": 3,
    "backlogSize": 1200,
}
STATS: dict[str, Any] = {"ongoingTxnCount": 2, "subscriptions": {"billing": SUBSCRIPTION}}
NOT_COUNTS: list[object] = [None, -1, "12", 1.5, True, [], {}]

Change = Callable[[dict[str, Any]], None]


class Api:
    """Answers by the end of the path; each may be replaced by other bytes."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.moved: list[str] = []  # paths of resetcursor
        self.put("/orders/partitions", {"partitions": 2})
        self.put("/retention", {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1})
        for number in range(2):
            self.put(f"-partition-{number}/stats", STATS)
            self.put(f"-partition-{number}/internalStats", LAYOUT)

    def put(self, end: str, body: object, status: int = 200) -> None:
        """Set the answer to the paths that end so; bytes are sent as they are."""
        self.answers[end] = status, body if isinstance(body, bytes) else json.dumps(body).encode()

    def change(self, end: str, change: Change) -> None:
        """Change what is answered for partition 1."""
        body = deepcopy(STATS if end == "stats" else LAYOUT)
        change(body)
        self.put(f"-partition-1/{end}", body)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, list[Api]]]:
    """A port whose answers are those of the last API in the list."""
    apis: list[Api] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one packet: two wait for an acknowledgement

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            fitting = (answer for end, answer in apis[-1].answers.items() if path.endswith(end))
            status, body = next(fitting, (404, b'{"reason": "not here"}'))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            apis[-1].moved.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with answering(Handler) as port:
        yield port, apis


@pytest.fixture
def api(server: tuple[int, list[Api]]) -> Iterator[tuple[Api, PulsarSource]]:
    """An API whose answers are right, and a source that asks it."""
    port, apis = server
    apis.append(Api())
    options = PulsarOptions(
        service_url="pulsar://127.0.0.1:1",
        admin_url=f"http://127.0.0.1:{port}",
        topic=TOPIC,
        subscription="billing",
    )
    with closing(open_source(options, RunOptions(), "figures")) as source:
        yield apis[-1], source


def unusable(state: PartitionState) -> bool:
    """Whether a state has an error that may pass, and no figure."""
    figures = state.position, state.start, state.end, state.backlog, state.backlog_bytes
    return bool(state.error) and state.passing and figures == (None,) * 5


def test_right_answers_are_read(api: tuple[Api, PulsarSource]) -> None:
    """Without a fault, each partition has a backlog of twelve entries, and the notes give the sums."""
    _, source = api
    survey = source.survey()
    assert [state.backlog for state in survey.partitions] == [BACKLOG] * 2
    state = survey.partitions[0]
    assert (state.position, state.start, state.end) == ("7:1", "7:-1", "8:9")
    assert (state.backlog_bytes, state.undo, survey.live) == (1200, None, ())
    assert any("6 messages are delayed" in note for note in survey.notes)
    assert any("Open transactions with messages: 4." in note for note in survey.notes)
    assert [(left.left, left.error) for left in source.remaining({GOOD: None, BAD: "8:4"})] == [
        *((BACKLOG, None), (BACKLOG - 5, None))
    ]


WRONG = [
    pytest.param(204, b"", id="no content"),
    pytest.param(200, b"{}", id="empty object"),
    pytest.param(200, b"[]", id="a list"),
    pytest.param(200, b"null", id="null"),
    pytest.param(200, b"0", id="a number"),
    pytest.param(200, b"<html>welcome</html>", id="HTML"),
]


@pytest.mark.parametrize(("status", "body"), WRONG)
@pytest.mark.parametrize("end", ["stats", "internalStats"])
def test_a_wrong_answer_is_that_partitions_error(
    api: tuple[Api, PulsarSource], end: str, status: int, body: bytes
) -> None:
    """An answer that is not the object asked for leaves its partition without figures, with an error."""
    answers, source = api
    answers.put(f"-partition-1/{end}", body, status)
    good, bad = source.survey().partitions
    assert (good.backlog, good.error) == (BACKLOG, None)
    assert bad.error
    assert (bad.position, bad.end, bad.backlog) == (None, None, None)
    if end == "internalStats":
        left = {
            item.partition: (item.left, item.error)
            for item in source.remaining({GOOD: None, BAD: "8:9"})
        }
        assert left[GOOD] == (BACKLOG, None)
        assert left[BAD][0] is None
        assert left[BAD][1]


def _set(*keys: str | int, value: object) -> Change:
    def change(body: dict[str, Any]) -> None:
        at: Any = body
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return change


def _without(*keys: str | int) -> Change:
    def change(body: dict[str, Any]) -> None:
        at: Any = body
        for key in keys[:-1]:
            at = at[key]
        del at[keys[-1]]

    return change


OPENED, SWITCHED = "lastLedgerCreatedTimestamp", "lastLedgerSwitchTimestamp"
LOADED: dict[str, Any] = {
    **LAYOUT,
    OPENED: "2026-11-26T20:37:57.708Z",
    "cursors": {"billing": {**CURSOR, SWITCHED: "2026-11-26T20:38:18.792Z"}},
}


@pytest.mark.parametrize(
    "change",
    [
        _set("ledgers", 1, "ledgerId", value=9),
        _set(OPENED, value="2026-11-26T20:37:57.709Z"),
        _set("cursors", "billing", SWITCHED, value="2026-11-26T20:38:18.793Z"),
    ],
)
def test_positions_of_another_ledger_or_of_another_time_may_be_of_another_topic(change: Change) -> None:
    """Only where the last ledger and both times are equal, positions are certainly of one subscription."""
    other = deepcopy(LOADED)
    other["currentLedgerEntries"] = 20  # messages that arrive change nothing
    other["lastConfirmedEntry"] = "8:19"
    assert parse_layout(LOADED, "billing").same(parse_layout(other, "billing"))
    other["lastConfirmedEntry"] = "7:5"
    change(other)
    assert not parse_layout(LOADED, "billing").same(parse_layout(other, "billing"))


@pytest.mark.parametrize("value", [None, "", 0, "1970-01-01T00:00:00Z"])
@pytest.mark.parametrize("path", [(OPENED,), ("cursors", "billing", SWITCHED)])
def test_positions_without_a_time_may_be_of_another_topic(path: tuple[str, ...], value: object) -> None:
    """Where a broker reports no time, not even equal positions are certainly of one subscription."""
    found = deepcopy(LOADED)
    _set(*path, value=value)(found)
    assert not parse_layout(found, "billing").same(parse_layout(found, "billing"))


def _layout_faults() -> Iterator[Any]:
    for path in (
        ("lastConfirmedEntry",),
        ("currentLedgerEntries",),
        ("ledgers",),
        ("ledgers", 0, "ledgerId"),
        ("ledgers", 0, "entries"),
        ("ledgers", 1, "entries"),
        ("cursors",),
        ("cursors", "billing"),
        ("cursors", "billing", "markDeletePosition"),
        ("cursors", "billing", "individuallyDeletedMessages"),
    ):
        name = ".".join(map(str, path))
        yield pytest.param(_without(*path), id=f"{name} missing")
        for value in NOT_COUNTS:
            yield pytest.param(_set(*path, value=value), id=f"{name}={value!r}")
    for path in (("lastConfirmedEntry",), ("cursors", "billing", "markDeletePosition")):
        for text in ("-1:-1", "8:-2", "8", "8:", "x:1", "-8:1", "null", "8:9:0", "9:0", "8:10", " 8:1"):
            if (path[0], text) != ("lastConfirmedEntry", "8:10"):  # entries confirmed meanwhile
                yield pytest.param(_set(*path, value=text), id=f"{path[-1]}={text}")
    for text in (
        "",
        "[",
        "(7:3..7:5]",
        "[(7:3..7:5]] and more",
        "[(7:5..7:3]]",
        "[(7:3..7:]]",
        "[7:3]",
    ):
        change = _set("cursors", "billing", "individuallyDeletedMessages", value=text)
        yield pytest.param(change, id=f"individuallyDeletedMessages={text}")


@pytest.mark.parametrize("change", list(_layout_faults()))
def test_impossible_ledgers_and_cursors_are_errors(
    api: tuple[Api, PulsarSource], change: Change
) -> None:
    """A figure that is missing, negative, of another type or contradicted is an error, never nothing left."""
    answers, source = api
    source.survey()
    answers.change("internalStats", change)
    good, bad = source.survey().partitions
    assert (good.backlog, good.error) == (BACKLOG, None)
    assert unusable(bad)
    (left,) = source.remaining({BAD: "8:9"})
    assert (left.left, left.position) == (None, None)
    assert left.error
    state = PartitionState(BAD, "7:1", "7:-1", "8:9", BACKLOG)
    (outcome,) = source.skip([Claim(state, None, "8:9")])
    assert (outcome.position, answers.moved) == (None, [])
    assert outcome.error


def _stats_faults() -> Iterator[Any]:
    for path in (("subscriptions",), ("subscriptions", "billing", "consumers")):
        yield pytest.param(_without(*path), id=f"{path[-1]} missing")
        for value in (None, -1, "x", [1], True):
            yield pytest.param(_set(*path, value=value), id=f"{path[-1]}={value!r}")
    for value in (None, -1, "x", []):
        yield pytest.param(_set("subscriptions", "billing", value=value), id=f"billing={value!r}")


@pytest.mark.parametrize("change", list(_stats_faults()))
def test_unreported_consumers_are_an_error(api: tuple[Api, PulsarSource], change: Change) -> None:
    """Where subscriptions or consumers are not listed, the partition has an error: one may be attached."""
    answers, source = api
    answers.change("stats", change)
    good, bad = source.survey().partitions
    assert good.error is None
    assert unusable(bad)


@pytest.mark.parametrize("value", NOT_COUNTS)
def test_figures_for_information_are_unknown(api: tuple[Api, PulsarSource], value: object) -> None:
    """Bytes, delays and transactions that are not counts are not known, which a note states."""
    answers, source = api

    def change(body: dict[str, Any]) -> None:
        body["ongoingTxnCount"] = value
        body["subscriptions"]["billing"] |= {"msgDelayed": value, "backlogSize": value}

    answers.change("stats", change)
    survey = source.survey()
    assert (survey.partitions[1].backlog, survey.partitions[1].backlog_bytes) == (BACKLOG, None)
    assert any("delayed messages, open transactions with messages" in note for note in survey.notes)


@pytest.mark.parametrize("value", [*NOT_COUNTS, "missing"])
def test_number_of_partitions_is_never_assumed(api: tuple[Api, PulsarSource], value: object) -> None:
    """A topic is not taken for one without partitions because their number does not come."""
    answers, source = api
    answers.put("/orders/partitions", {} if value == "missing" else {"partitions": value})
    with pytest.raises(TransientError, match="partitions"):
        source.survey()


@pytest.mark.parametrize(("status", "body"), WRONG)
def test_a_wrong_answer_about_partitions_ends_the_survey(
    api: tuple[Api, PulsarSource], status: int, body: bytes
) -> None:
    """An answer about partitions that is not an object ends the survey with an error."""
    answers, source = api
    answers.put("/orders/partitions", body, status)
    with pytest.raises(BrokerError, match="admin API"):
        source.survey()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *WRONG,
        pytest.param(200, b'{"retentionTimeInMinutes": 5}', id="half"),
        pytest.param(200, b'{"retentionTimeInMinutes": -2, "retentionSizeInMB": 1}', id="negative"),
        pytest.param(200, b'{"retentionTimeInMinutes": "5", "retentionSizeInMB": 1}', id="text"),
        pytest.param(500, b"", id="failed"),
    ],
)
def test_unreported_retention_is_unknown(
    api: tuple[Api, PulsarSource], status: int, body: bytes
) -> None:
    """A retention policy that cannot be read is not known: neither "kept" nor an error of the survey."""
    answers, source = api
    answers.put("/retention", body, status)
    assert "not known" in str(source.survey().partitions[0].undo)


def test_an_end_below_the_target_is_reported(api: tuple[Api, PulsarSource]) -> None:
    """A topic that ends before the frozen target is not cleared: it was cut, or is another one."""
    answers, source = api
    source.survey()
    answers.change("internalStats", _set("lastConfirmedEntry", value="8:9"))
    for target in ("8:10", "9:0"):
        (left,) = source.remaining({BAD: target})
        assert left.left is None
        assert "beyond the topic's last entry 8:9" in str(left.error)
        state = PartitionState(BAD, "7:1", "7:-1", target, BACKLOG)
        (outcome,) = source.skip([Claim(state, None, target)])
        assert (outcome.position, answers.moved) == (None, [])
        assert "beyond the topic's last entry" in str(outcome.error)


@pytest.mark.parametrize("position", ["", "x", "7", "7:1:2", "7:-2", 7, {"offset": 1}])
def test_invalid_positions_of_a_receipt_are_refused(
    api: tuple[Api, PulsarSource], position: int | str | dict[str, int | str | None]
) -> None:
    """A receipt's position of another form is that partition's error, and nothing is moved for it."""
    answers, source = api
    source.survey()
    bad, good = source.restore([Recorded(BAD, position), Recorded(GOOD, "7:-1")])
    assert bad.position is None
    assert "must be LEDGER:ENTRY" in str(bad.error)
    assert (good.position, good.error) == ("7:-1", None)
    assert [path.partition("-partition-")[2][0] for path in answers.moved] == ["0"]


def test_the_start_of_an_empty_ledger_is_the_end_before_it() -> None:
    """A position before the first entry of a new ledger is the end of the one before it, not beyond."""
    stats = deepcopy(LAYOUT) | {"currentLedgerEntries": 0, "lastConfirmedEntry": "7:5"}
    stats["cursors"]["billing"] = {"markDeletePosition": "8:-1", "individuallyDeletedMessages": "[]"}
    assert parse_layout(stats, "billing").left(Place(7, 5)) == 0


@pytest.mark.parametrize(
    ("subscription", "cursor"),
    [("a b", "a+b"), ("a+b", "a%2Bb"), ("x/y%", "x%2Fy%25"), ("ä~*(1)", "%C3%A4%7E*%281%29")],
)
def test_cursors_have_encoded_names(subscription: str, cursor: str) -> None:
    """A subscription is never read by the cursor of another one, whose encoded name is this one's name."""
    stats = deepcopy(LAYOUT)
    other = {"markDeletePosition": "8:9", "individuallyDeletedMessages": "[]"}
    stats["cursors"] = {subscription: other, cursor: CURSOR}
    assert parse_layout(stats, subscription).mark_delete == Place(7, 1)
    del stats["cursors"][cursor]
    with pytest.raises(FigureError, match="cursors has none"):
        parse_layout(stats, subscription)


def test_deleted_ledgers_are_empty() -> None:
    """An end and a position in ledgers that retention deleted mean an empty topic, and are not refused."""
    stats = deepcopy(LAYOUT) | {"currentLedgerEntries": 0, "lastConfirmedEntry": "5:3"}
    stats["ledgers"] = [{"ledgerId": 8, "entries": 0}]
    stats["cursors"]["billing"] = {"markDeletePosition": "5:3", "individuallyDeletedMessages": "[]"}
    assert parse_layout(stats, "billing").left(Place(5, 3)) == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[]", ()),
        ("[(3:4..3:9]]", (Hole(Place(3, 4), Place(3, 9)),)),
        ("[(3:4‥3:9]]", (Hole(Place(3, 4), Place(3, 9)),)),
        (
            "[[4:0..4:2),(3:-1..3:1]]",
            (Hole(Place(3, -1), Place(3, 1)), Hole(Place(4, -1), Place(4, 1))),
        ),
    ],
)
def test_acknowledged_ranges_are_read(text: str, found: tuple[Hole, ...]) -> None:
    """Ranges are read with open and closed ends, as old and new releases of Pulsar write them."""
    assert parse_holes(text) == found


def test_positions_are_read_strictly() -> None:
    """Only "LEDGER:ENTRY" with plain digits is a position; the start of a topic is "-1:-1"."""
    assert [parse_place(text) for text in ("7:-1", "-1:-1")] == [Place(7, -1), Place(-1, -1)]
    for text in ("٣:1", "1_0:1", "+1:1", "-1:0", None, 1):
        with pytest.raises(ValueError, match="must be LEDGER:ENTRY"):
            parse_place(text)
