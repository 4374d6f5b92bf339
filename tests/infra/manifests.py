"""Kubernetes manifests from Terraform plans, to compare with the published schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.infra.bindings import Bindings
from tests.infra.provider_schema import derive

_KINDS = {
    "kubernetes_config_map_v1": ("v1", "ConfigMap"),
    "kubernetes_cron_job_v1": ("batch/v1", "CronJob"),
    "kubernetes_job_v1": ("batch/v1", "Job"),
    "kubernetes_network_policy_v1": ("networking.k8s.io/v1", "NetworkPolicy"),
    "kubernetes_service_account_v1": ("v1", "ServiceAccount"),
}

# The provider names a repeated block in the singular, and takes as text what may be a number or a name.
_PLURALS = {
    "container": "containers",
    "on_pod_condition": "onPodConditions",
    "rule": "rules",
    "timezone": "timeZone",
    "volume": "volumes",
    "volume_mount": "volumeMounts",
}
_NUMBERS = {"fs_group", "port", "run_as_group", "run_as_user", "ttl_seconds_after_finished"}
_NO_PART = {"id", "wait_for_completion", "timeouts", "default_secret_name"}


def manifests(plan: Mapping[str, Any], bindings: Bindings) -> Iterator[dict[str, Any]]:
    """The objects that a plan makes, as the provider sends them."""
    made = plan["resource_changes"]
    schema = derive(bindings, {item["type"] for item in made}, ()).resources
    for item in made:
        version, kind = _KINDS[item["type"]]
        content = _object(item["change"]["after"], schema[item["type"]])
        yield {"apiVersion": version, "kind": kind, **content}


def _object(values: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """A block's arguments and blocks under Kubernetes' names; unset ones are left out."""
    content: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or name in _NO_PART:
            continue
        nested = block["blocks"].get(name)
        if nested is None:
            content[_camel(name)] = int(value) if name in _NUMBERS else value
        elif nested["max"] == 1:
            if value:
                content[_camel(name)] = _object(value[0] or {}, nested["block"])
        elif value:
            content[_camel(name)] = [_object(item, nested["block"]) for item in value]
    return content


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return _PLURALS.get(name, first + "".join(word.capitalize() for word in rest))
