"""kafka-python is loaded without its clients, and with them where one is asked for."""

from __future__ import annotations

import subprocess
import sys


def printed(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout.strip()


def test_no_client_is_loaded_for_the_messages() -> None:
    """Importing the adapter loads kafka-python's messages, and not its clients."""
    loaded = printed(
        "import sys, backlog_clearer.brokers.kafka.source;"
        "print([name in sys.modules for name in ('kafka.protocol.consumer', 'kafka.admin', 'kafka.net')])"
    )
    assert loaded == "[True, False, False]"


def test_a_client_is_there_for_who_asks() -> None:
    """A program that uses kafka-python besides gets its clients, parts and version as ever."""
    found = printed(
        "import backlog_clearer.brokers.kafka.source, kafka, kafka.protocol.consumer;"
        "from kafka import KafkaConsumer, TopicPartition;"
        "print(KafkaConsumer.__name__, kafka.protocol.consumer.__name__, kafka.__version__[0],"
        " kafka.KafkaProducer.__name__, hasattr(kafka, 'nothing'))"
    )
    assert found == "KafkaConsumer kafka.protocol.consumer 3 KafkaProducer False"


def test_a_library_that_is_loaded_already_is_left_alone() -> None:
    """Where kafka-python was imported before, the same package is used."""
    assert (
        printed(
            "import kafka; before = kafka; import backlog_clearer.brokers.kafka.library, sys;"
            "print(sys.modules['kafka'] is before)"
        )
        == "True"
    )
