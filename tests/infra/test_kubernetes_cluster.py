"""The Kubernetes module, applied by the real provider to a real API server with the real job controllers.

It runs where the programs and the provider are: KUBEBUILDER_ASSETS, and a folder of Terraform plugins. CI
has neither: building the programs from their Go modules takes seven minutes of CPU, and the Go module
proxy has no version of the provider that has these resources.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from backlog_clearer.testing.support import wait_until
from tests.infra.bindings import KUBERNETES_3
from tests.infra.kube_cluster import ASSETS, PROGRAMS, KubeCluster, kube_cluster
from tests.infra.terraform import Terraform, prepare
from tests.paths import ROOT

pytestmark = [
    pytest.mark.skipif(
        not all((ASSETS / name).is_file() for name in PROGRAMS),
        reason=f"KUBEBUILDER_ASSETS names no folder with {', '.join(PROGRAMS)}",
    ),
    pytest.mark.timeout(600),
]

NAMESPACE = "drains"
JOBS, CRONS = (f"/apis/batch/v1/namespaces/{NAMESPACE}/{kind}" for kind in ("jobs", "cronjobs"))
RUN = "backlog-clearer-outage"
INDEX = "batch.kubernetes.io/job-completion-index"


class Applied:
    """The root, applied with its variables."""

    def __init__(self, terraform: Terraform, root: Path, cluster: KubeCluster) -> None:
        self.terraform, self.root, self.cluster = terraform, root, cluster
        self.due = datetime.now(timezone.utc).replace(second=0, microsecond=0) + timedelta(minutes=2)
        cron = f"{self.due.minute} {self.due.hour} * * *"
        self.values = {"host": cluster.host, "token": cluster.token, "cron": cron}

    def _run(self, *args: str) -> int:
        env = {f"TF_VAR_{name}": value for name, value in self.values.items()}
        done = self.terraform.run(self.root, *args, "-input=false", "-no-color", env=env)
        assert done.returncode != 1, done.stdout + done.stderr
        return done.returncode

    def apply(self, **values: str) -> None:
        """Apply with these variables changed; the plan after it is empty."""
        self.values.update(values)
        self._run("apply", "-auto-approve")
        assert self._run("plan", "-detailed-exitcode") == 0, "the second plan is not empty"

    def job(self) -> dict[str, Any]:
        """The job of the run."""
        found: dict[str, Any] = self.cluster.call(f"{JOBS}/{RUN}")
        return found

    def pods(self) -> list[dict[str, Any]]:
        """The pods of the run that are not ended or being deleted."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=batch.kubernetes.io/job-name={RUN}"
        return [
            pod
            for pod in self.cluster.items(path)
            if pod["status"]["phase"] == "Pending" and "deletionTimestamp" not in pod["metadata"]
        ]

    def by_index(self) -> dict[int, str]:
        """The names of these pods by their index."""
        return {
            int(pod["metadata"]["labels"][INDEX]): str(pod["metadata"]["name"]) for pod in self.pods()
        }

    def end(self, index: int, code: int) -> None:
        """Let the pod of a slice end with an exit code."""
        self.cluster.end(NAMESPACE, self.by_index()[index], code)


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Applied]:
    """The module, applied once: a run of four slices, and a schedule that is not enabled."""
    folder = tmp_path_factory.mktemp("cluster")
    terraform, _ = prepare(ROOT / "infra" / "terraform" / "kubernetes", folder, KUBERNETES_3)
    if "the provider itself" not in terraform.providers["kubernetes"]:
        pytest.skip("no folder of Terraform plugins has the provider hashicorp/kubernetes")
    root = folder / "root"
    shutil.copytree(Path(__file__).with_name("kubernetes_root"), root)
    terraform.init(root)
    (folder / "data").mkdir()
    with kube_cluster(folder / "data") as cluster:
        found = Applied(terraform, root, cluster)
        found.apply()
        _control(found)
        yield found


CONTROL = "starts-late"


def _control(applied: Applied) -> None:
    """A copy of the module's cron job that makes up for a missed start for an hour."""
    cron = copy.deepcopy(applied.cluster.call(f"{CRONS}/backlog-clearer-orders"))
    spec = {**cron["spec"], "startingDeadlineSeconds": 3600}
    body = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": CONTROL}, "spec": spec}
    applied.cluster.call(CRONS, body, "POST")


def test_the_job_controller_makes_a_pod_for_each_slice(applied: Applied) -> None:
    """Under the restricted pod security standard, each of the four indexes has one pod."""
    wait_until(lambda: sorted(applied.by_index()) == [0, 1, 2, 3], "each index has a pod")
    assert len(applied.pods()) == 4
    environment = applied.pods()[0]["spec"]["containers"][0]["env"]
    assert {"name": "BACKLOG_CLEARER_TOTAL", "value": "4"} in environment


def test_a_change_during_a_drain_neither_ends_nor_repeats_it(applied: Applied) -> None:
    """Another image, other slices, attempts, time and labels leave job and pods; the plan is empty then."""
    before = applied.job(), applied.pods()
    applied.apply(digest="1", slices="2", attempts="3", attempt_seconds="1800", team="two")
    cron = applied.cluster.call(f"{CRONS}/backlog-clearer-orders")
    assert cron["metadata"]["labels"]["team"] == "two"
    job, pods = applied.job(), applied.pods()
    assert job["metadata"]["uid"] == before[0]["metadata"]["uid"]
    assert job["spec"] == before[0]["spec"]
    assert [pod["metadata"]["uid"] for pod in pods] == [pod["metadata"]["uid"] for pod in before[1]]
    assert [item["metadata"]["name"] for item in applied.cluster.items(JOBS)] == [RUN]


def test_a_failed_slice_does_not_end_the_others(applied: Applied) -> None:
    """Exit 3 fails its index at once, exit 1 is tried again, and the other slices are not touched."""
    others = {index: applied.by_index()[index] for index in (2, 3)}
    first = applied.by_index()[1]
    applied.end(0, 3)
    applied.end(1, 1)
    wait_until(lambda: applied.job()["status"].get("failedIndexes") == "0", "index 0 has failed")
    wait_until(lambda: applied.by_index().get(1, first) != first, "index 1 is tried again", 90)
    assert {index: applied.by_index()[index] for index in others} == others
    assert 0 not in applied.by_index()
    assert not applied.job()["status"].get("conditions")
    for index in (1, 2, 3):
        applied.end(index, 0)

    def ended() -> bool:
        conditions = applied.job()["status"].get("conditions", [])
        return any(item["type"] == "Failed" and item["status"] == "True" for item in conditions)

    wait_until(ended, "the job has ended")
    status = applied.job()["status"]
    assert (status["failedIndexes"], status["completedIndexes"]) == ("0", "1-3")


def test_enabling_a_schedule_whose_time_has_passed_starts_nothing(applied: Applied) -> None:
    """35 s after its time the schedule is enabled: no job; the same with a long deadline starts one."""
    late = applied.due + timedelta(seconds=35)
    wait_until(lambda: datetime.now(timezone.utc) > late, "the schedule's time has passed", 200)
    applied.apply(enabled="true")
    patch = {"spec": {"suspend": False}}
    applied.cluster.call(f"{CRONS}/{CONTROL}", patch, "PATCH", "application/merge-patch+json")

    def started(name: str) -> list[str]:
        owners = [job["metadata"].get("ownerReferences", []) for job in applied.cluster.items(JOBS)]
        return [owner["name"] for owned in owners for owner in owned if owner["name"] == name]

    wait_until(lambda: bool(started(CONTROL)), "the other cron job starts late")
    cron = applied.cluster.call(f"{CRONS}/backlog-clearer-orders")
    assert (cron["spec"]["suspend"], cron["status"].get("lastScheduleTime")) == (False, None)
    assert not started("backlog-clearer-orders")
