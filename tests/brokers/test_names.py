"""A mistyped name is distinguished from a new one, and both from a name that is in use."""

from __future__ import annotations

import pytest

from backlog_clearer.brokers.eventhubs.options import EventHubsOptions
from backlog_clearer.brokers.googlepubsub.options import PubSubOptions
from backlog_clearer.brokers.iggy.options import IggyOptions
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.shared.names import doubt, never_stored, similar
from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import SystemOptions, build

USED = ("billing", "billing-eu", "shipping", "acme.orders", "x")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("billng", ("billing", "billing-eu")),
        ("biling-eu", ("billing-eu", "billing")),
        ("Billing", ("billing", "billing-eu")),
        ("billing ", ("billing", "billing-eu")),
        ("billing", ("billing-eu",)),
        ("ACME_orders", ("acme.orders",)),
        ("backlog-clearer", ()),
        ("y", ()),
        ("--", ()),
    ],
)
def test_only_names_that_may_be_meant_are_similar(name: str, near: tuple[str, ...]) -> None:
    """A letter too few, another case or other punctuation is similar; another word and itself are not."""
    assert similar(name, USED) == near


def test_the_nearest_name_comes_first_and_few_are_listed() -> None:
    """A difference only in punctuation is nearer than a letter, and no more than the limit are returned."""
    assert similar("order_s", ("orders1", "orders", "order-s2", "orderss"), limit=2)[0] == "orders"
    assert len(similar("orders", [f"orders{n}" for n in range(9)], limit=2)) == 2


def test_a_doubt_names_the_similar_names_and_the_way_out() -> None:
    """Without a similar name there is no doubt; with one, the text has its name and --new."""
    assert doubt("group billng on topic orders", ()) is None
    text = doubt("group billng on topic orders", ["billing"]) or ""
    assert "group billng on topic orders" in text
    assert "'billing' has a position" in text
    assert "--new" in text


@pytest.mark.parametrize(
    ("backlogs", "end"),
    [
        ({}, "no other name has a backlog there."),
        ({"a": 0}, "no other name has a backlog there."),
        (
            {"a": 1, "b": 2000, "c": None, "d": 0},
            "names with a backlog there: 'b' (2,000 offsets), 'a' (1 offset), 'c' (unknown).",
        ),
        (None, "which other names have a position there is not known."),
    ],
)
def test_the_note_lists_the_names_with_a_backlog(backlogs: dict[str, int | None], end: str) -> None:
    """The largest backlog comes first, an unknown one last, and none is taken for a backlog of 0."""
    text = never_stored("group g on topic t", backlogs, "offsets")
    assert text.startswith("Nothing was ever stored under the name of group g on topic t")
    assert text.endswith(end)


EVENT_HUBS = {
    "connection_string": "Endpoint=sb://h/;SharedAccessKeyName=a;SharedAccessKey=b",
    "eventhub_name": "h",
    "consumer_group": "g",
    "checkpoint_store": "UseDevelopmentStorage=true",
    "checkpoint_container": "c",
}
IGGY = {
    "host": "h",
    "stream_id": "s",
    "topic_id": "t",
    "group_id": "g",
    "username": "u",
    "password": "p",
}
NAMED: dict[type[SystemOptions], tuple[dict[str, str], tuple[str, ...]]] = {
    KafkaOptions: ({"bootstrap_servers": "b:1", "topic": "t", "group_id": "g"}, ("group_id",)),
    PulsarOptions: (
        {"service_url": "pulsar://h", "topic": "t", "subscription": "s"},
        ("topic", "subscription"),
    ),
    PubSubOptions: (
        {"project_id": "p", "subscription_id": "s"},
        ("project_id", "subscription_id"),
    ),
    EventHubsOptions: (EVENT_HUBS, ("eventhub_name", "consumer_group", "checkpoint_container")),
    IggyOptions: (IGGY, ("stream_id", "topic_id", "group_id")),
}
"""Options of each system, and those of them that name something of the broker's."""


@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model, (_, names) in NAMED.items() for name in names]
)
def test_every_systems_names_refuse_blanks_around_them(model: type[SystemOptions], name: str) -> None:
    """Kafka's topics are a list, whose elements may have blanks around them; none is part of a name."""
    values, _ = NAMED[model]
    build(model, values)
    for wrong in (f" {values[name]}", f"{values[name]}\t"):
        with pytest.raises(UsageError, match=f"{name.replace('_', '-')}: the name begins or ends"):
            build(model, {**values, name: wrong})
