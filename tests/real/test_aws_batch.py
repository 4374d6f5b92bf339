"""The AWS module, applied by Terraform with the real provider on an emulator, and its job run on real Kafka."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest

from backlog_clearer.testing.servers.kafka import KafkaCluster
from backlog_clearer.testing.servers.kafka_judge import Judge, unique
from backlog_clearer.testing.support import Server, free_port, running
from tests.command import ended, job_started
from tests.infra.terraform import Terraform, prepare
from tests.paths import ROOT

PARTITIONS, EACH = 6, 500


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables that lead to AWS as moto emulates it."""
    port, log = free_port(), tmp_path_factory.mktemp("moto") / "moto.log"
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    with running(Server(command, port=port, log=log)):
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Account:
    """Clients of the emulated account."""

    def __init__(self, emulator: Mapping[str, str]) -> None:
        self._session = boto3.Session("test", "test", region_name=emulator["AWS_DEFAULT_REGION"])
        self._url = emulator["AWS_ENDPOINT_URL"]

    def client(self, service: str) -> Any:
        """A client of one service."""
        return self._session.client(service, endpoint_url=self._url)

    def submit(self, request: Mapping[str, Any]) -> str:
        """Do what EventBridge Scheduler does with a target's input, and return the job's id."""
        size = request["ArrayProperties"]["Size"]
        plain = {key[0].lower() + key[1:]: value for key, value in request.items()}
        job = self.client("batch").submit_job(**{**plain, "arrayProperties": {"size": size}})
        return str(job["jobId"])

    def environment(self, definition: Mapping[str, Any]) -> dict[str, str]:
        """What Fargate sets in a container: the variables, and the secrets by their ARNs and keys."""
        secrets = self.client("secretsmanager")
        container = definition["containerProperties"]
        found = {item["name"]: item["value"] for item in container["environment"]}
        for item in container["secrets"]:
            *arn, key, _stage, _version = item["valueFrom"].split(":")
            text = secrets.get_secret_value(SecretId=":".join(arn))["SecretString"]
            found[item["name"]] = json.loads(text)[key]
        return found

    def take_policy_off(self, bucket: str) -> None:
        """The emulator reads a policy without its conditions: "no request without TLS" would be "none"."""
        s3 = self.client("s3")
        statements = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
        conditions = [(item["Effect"], item["Condition"]) for item in statements]
        assert conditions == [("Deny", {"Bool": {"aws:SecureTransport": "false"}})]
        s3.delete_bucket_policy(Bucket=bucket)


def applied(terraform: Terraform, root: Path, env: Mapping[str, str], *args: str) -> str:
    """Run a command of Terraform that has to succeed."""
    done = terraform.run(root, *args, "-no-color", env=env)
    assert done.returncode == 0, f"terraform {args[0]}:\n{done.stdout[-3000:]}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(900)
def test_what_is_applied_clears_on_schedule_and_is_destroyed(
    emulator: dict[str, str], judge: Judge, kafka: KafkaCluster, tmp_path: Path
) -> None:
    """What is applied stays as planned; its schedule's array clears a topic by Kafka's own tool; all goes."""
    topic, group = judge.create(unique("batch"), PARTITIONS), unique("group")
    for number in range(PARTITIONS):
        judge.produce(topic, number, EACH)
    judge.commit(topic, group, dict.fromkeys(range(PARTITIONS), 10))
    terraform, module = prepare(ROOT / "infra" / "terraform" / "aws", tmp_path)
    root = module / "applied"
    shutil.copytree(ROOT / "tests" / "infra" / "aws_root", root)
    options = {"bootstrap_servers": kafka.bootstrap(), "topic": topic, "group_id": group}
    env = {**emulator, **{f"TF_VAR_{name}": value for name, value in options.items()}}
    terraform.init(root)
    with ExitStack() as stack:
        applied(terraform, root, env, "apply", "-auto-approve")
        stack.callback(applied, terraform, root, env, "destroy", "-auto-approve")
        applied(terraform, root, env, "plan", "-detailed-exitcode")
        drain = json.loads(applied(terraform, root, env, "output", "-json"))["drain"]["value"]
        account = Account(emulator)
        account.take_policy_off(drain["receipts_bucket"])
        assert reported(account, drain) == ["alarm", "array", "plain"]
        clear(account, emulator, drain)
        lags = kafka.group_offsets(group)
        assert {key[1]: item.lag for key, item in lags.items()} == dict.fromkeys(range(PARTITIONS), 0)
    assert Account(emulator).client("batch").describe_job_queues()["jobQueues"] == []
    assert Account(emulator).client("s3").list_buckets()["Buckets"] == []


def reported(account: Account, drain: Mapping[str, Any]) -> list[str]:
    """What arrives of a message to the alarms' topic, and of events of jobs by the pattern of its rule.

    The emulator cannot deliver an event to a topic, so another bus has the pattern, and a queue as target.
    """
    events, queues, topics = (account.client(name) for name in ("events", "sqs", "sns"))
    url = queues.create_queue(QueueName="probe")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    topics.subscribe(TopicArn=drain["alarm_topic_arn"], Protocol="sqs", Endpoint=arn)
    topics.publish(TopicArn=drain["alarm_topic_arn"], Message="alarm")
    applied_rule = events.describe_rule(Name="backlog-clearer-failed")
    targets = events.list_targets_by_rule(Rule="backlog-clearer-failed")["Targets"]
    assert [item["Arn"] for item in targets] == [drain["alarm_topic_arn"]]
    events.create_event_bus(Name="probe")
    probe = {"Rule": "probe", "EventBusName": "probe"}
    events.put_rule(Name="probe", EventBusName="probe", EventPattern=applied_rule["EventPattern"])
    events.put_targets(**probe, Targets=[{"Id": "queue", "Arn": arn}])
    ours = {"jobQueue": drain["job_queue_arn"], "status": "FAILED"}
    jobs = {
        "array": {**ours, "arrayProperties": {"size": 4}},
        "plain": ours,
        "child": {**ours, "arrayProperties": {"size": 4, "index": 1}},
        "succeeded": {**ours, "status": "SUCCEEDED"},
        "other": {**ours, "jobQueue": f"{drain['job_queue_arn']}-of-others"},
    }
    for name, job in jobs.items():
        detail = json.dumps({**job, "jobName": name})
        event = {"Source": "aws.batch", "DetailType": "Batch Job State Change", "Detail": detail}
        events.put_events(Entries=[{**event, "EventBusName": "probe"}])
    found = queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    bodies = [json.loads(item["Body"]) for item in found]
    queues.delete_queue(QueueUrl=url)
    events.remove_targets(**probe, Ids=["queue"])
    return sorted(body["detail"]["jobName"] if "detail" in body else body["Message"] for body in bodies)


def clear(account: Account, emulator: Mapping[str, str], drain: Mapping[str, Any]) -> None:
    """Start what the schedule starts, and run each job of the array as its container would."""
    schedule = account.client("scheduler").get_schedule(
        Name="backlog-clearer-orders", GroupName="backlog-clearer"
    )
    assert schedule["State"] == "DISABLED"
    batch = account.client("batch")
    parent = account.submit(json.loads(schedule["Target"]["Input"]))
    job = batch.describe_jobs(jobs=[parent])["jobs"][0]
    size = job["arrayProperties"]["size"]
    definition = batch.describe_job_definitions(jobDefinitions=[drain["job_definition_arn"]])
    definition = definition["jobDefinitions"][0]
    container = {**os.environ, **emulator, **account.environment(definition)}
    container["AWS_BATCH_JOB_ARRAY_SIZE"] = str(size)
    parameters = job["parameters"]
    command = [
        re.sub(r"^Ref::(\w+)$", lambda found: parameters[found[1]], word)
        for word in definition["containerProperties"]["command"]
    ]
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(
                job_started(
                    container["BACKLOG_CLEARER_CONFIG"],
                    *command,
                    env={
                        **container,
                        "AWS_BATCH_JOB_ID": f"{parent}:{index}",
                        "AWS_BATCH_JOB_ARRAY_INDEX": str(index),
                    },
                )
            )
            for index in range(size)
        ]
        done = [ended(each) for each in jobs]
    assert [container[name] for name in ("TZ", "AWS_DEFAULT_REGION")] == ["UTC", "eu-west-1"]
    assert [each.code for each in done] == [0] * 4, done
    assert sum(each.result["totals"]["messages"] for each in done) == PARTITIONS * (EACH - 10)
    stored = account.client("s3").list_objects_v2(Bucket=drain["receipts_bucket"])["Contents"]
    names = sorted(item["Key"] for item in stored)
    assert [re.sub(r"-\d{4}-[0-9a-f]{8}\.json$", "", name) for name in names] == [
        f"runs/{parent}/slice-{index}-of-4" for index in range(4)
    ]
