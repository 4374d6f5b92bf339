"""IAM access control of Amazon MSK, as far as it goes without a cluster of AWS."""

from __future__ import annotations

import base64
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

from backlog_clearer.brokers.kafka.msk_iam import MskToken
from backlog_clearer.brokers.kafka.options import KafkaOptions
from backlog_clearer.brokers.kafka.socket_settings import unsecured_token
from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import build
from backlog_clearer.options.run import RunOptions
from backlog_clearer.run.clear import clear
from backlog_clearer.run.job import Job
from backlog_clearer.testing.servers.kafka import USER, KafkaCluster
from tests.real.kafka_case import Case


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a container on AWS: a region and credentials."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-shown")


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
@pytest.mark.usefixtures("identity")
def test_token_is_signed_for_the_region(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS's library signs a request to connect, for this region and identity, without the secret."""
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv(name, "eu-west-1")
    token, ends = MskToken().signed()
    url = urlsplit(base64.urlsafe_b64decode(token + "==").decode())
    asked = parse_qs(url.query)
    assert (url.hostname or "").startswith("kafka.eu-west-1.")
    assert asked["Action"] == ["kafka-cluster:Connect"]
    assert asked["X-Amz-Credential"][0].startswith("AKIDEXAMPLE/")
    assert "never-shown" not in url.query
    assert ends > time.time() + 60


@pytest.mark.usefixtures("identity")
def test_a_token_of_aws_is_what_every_connection_logs_in_with(
    case: Case, kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AWS_MSK_IAM both readers and librdkafka log in to a real broker by the signer's token.

    No broker but those of AWS understands AWS's tokens: the signer gives one that this broker does.
    """
    monkeypatch.setattr(
        MSKAuthTokenProvider,
        "generate_auth_token",
        lambda region: (
            (
                unsecured_token(f"principal={USER} lifeSeconds=900", time.time()),
                (time.time() + 900) * 1000,
            )
            if region == "eu-west-1"
            else None
        ),
    )
    topic = case.create(2)
    for number in (0, 1):
        case.judge.produce(topic, number, 400)
    options = build(
        KafkaOptions,
        {
            "bootstrap_servers": kafka.bootstrap("SASL_SSL"),
            "topic": topic,
            "group_id": case.group,
            "reader": case.reader.value,
            "security.protocol": "SASL_SSL",
            "sasl.mechanisms": "AWS_MSK_IAM",
            "ssl.ca.location": str(kafka.ca),
        },
    )
    run = build(RunOptions, {"stop_when_empty": True, "receipt_dir": str(case.folder)})
    result = clear(Job("kafka", options, run))
    assert result.cleared, result
    assert case.committed() == {0: 400, 1: 400}


def test_without_a_region_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing region is named: it is part of the signed request."""
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(UsageError, match="AWS_REGION"):
        MskToken()
