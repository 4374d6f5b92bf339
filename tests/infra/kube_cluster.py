"""A Kubernetes control plane of a test's own: etcd, the API server and the controllers, but no nodes.

The programs are in the folder that KUBEBUILDER_ASSETS names, as for envtest, with `kube-controller-manager`
beside `etcd` and `kube-apiserver`. infra/terraform/kubernetes/README.md has how to build them. Pods are
made by the controllers and never start: tests set their status, as a node would.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from backlog_clearer.testing.support import free_port, wait_until

ASSETS = Path(os.environ.get("KUBEBUILDER_ASSETS", "/usr/local/kubebuilder/bin"))
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
CONTROLLERS = (
    "job-controller", "cronjob-controller", "namespace-controller", "serviceaccount-controller",
)  # fmt: skip


class KubeCluster:
    """The API of a running cluster, as its administrator."""

    def __init__(self, port: int, token: str) -> None:
        self.host = f"https://127.0.0.1:{port}"
        self.token = token
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE  # the server made its certificate itself

    def call(
        self, path: str, body: object = None, method: str = "GET", kind: str = "application/json"
    ) -> Any:
        """One request; raises `HTTPError` for an answer that is not 2xx."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        asked = urllib.request.Request(self.host + path, data, headers, method=method)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=20, context=self._context) as answer:  # noqa: S310 https
            content = answer.read()
        return json.loads(content) if content.startswith(b"{") else content.decode()

    def ready(self) -> bool:
        """Whether the API server answers."""
        try:
            return str(self.call("/readyz")) == "ok"
        except (HTTPError, URLError, OSError):
            return False

    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        found: list[dict[str, Any]] = self.call(path)["items"]
        return found

    def end(self, namespace: str, pod: str, code: int) -> None:
        """Let a pod's container end with this exit code, as its node would report it."""
        state = {"terminated": {"exitCode": code}}
        container = {"name": "drain", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
        phase = "Failed" if code else "Succeeded"
        status = {"phase": phase, "containerStatuses": [{**container, "state": state}]}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/status"
        self.call(path, {"status": status}, "PATCH", "application/merge-patch+json")


@contextmanager
def kube_cluster(folder: Path) -> Iterator[KubeCluster]:
    """A cluster with its data in a folder; its processes end with the block."""
    client, peer, port = free_port(), free_port(), free_port()
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    key = folder / "accounts.key"
    subprocess.run(
        ["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True, timeout=60
    )
    cluster = KubeCluster(port, token)
    (folder / "kubeconfig").write_text(json.dumps(_kubeconfig(cluster)))
    etcd = (
        f"--data-dir={folder / 'etcd'}", f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}", "--unsafe-no-fsync",
    )  # fmt: skip
    server = (
        f"--etcd-servers=http://127.0.0.1:{client}", "--bind-address=127.0.0.1", f"--secure-port={port}",
        f"--cert-dir={folder / 'certificates'}", f"--token-auth-file={folder / 'tokens.csv'}",
        f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.0.0.0/24",
    )  # fmt: skip
    controllers = (
        f"--kubeconfig={folder / 'kubeconfig'}", f"--service-account-private-key-file={key}",
        f"--controllers={','.join(CONTROLLERS)}", "--leader-elect=false", "--secure-port=0",
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_running(folder, "etcd", *etcd))
        process = stack.enter_context(_running(folder, "kube-apiserver", *server))
        wait_until(
            lambda: process.poll() is not None or cluster.ready(), "the API server is ready", 120
        )
        assert process.poll() is None, (folder / "kube-apiserver.log").read_text()[-3000:]
        stack.enter_context(_running(folder, "kube-controller-manager", *controllers))
        yield cluster


@contextmanager
def _running(folder: Path, program: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / f"{program}.log").open("wb") as log:
        process = subprocess.Popen([str(ASSETS / program), *args], cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _kubeconfig(cluster: KubeCluster) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": cluster.host, "insecure-skip-tls-verify": True}}
        ],
        "users": [{"name": "admin", "user": {"token": cluster.token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "c",
    }
