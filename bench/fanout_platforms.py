"""The platforms that start slices, in figures, each with the page that documents it.

Pages are named by their title or path. What no page was found for is marked `assumed` and shown as such
beside every table. Where a quota can be raised, the figure is that of the page; `--set` changes any.
Prices are list prices in US dollars without free grants; queues, storage, network and the broker are not
in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.fanout_model import Platform

ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Known:
    """A platform, and where each of its figures comes from."""

    key: str  # for `--set`
    platform: Platform
    sources: Mapping[str, str]  # by the field's name; begins with `ASSUMED` where no page states it

    @property
    def assumed(self) -> list[str]:
        """The figures that no page documents."""
        return [name for name, source in self.sources.items() if source.startswith(ASSUMED)]


_CLOUD_RUN_LIMITS = (
    "Cloud Run, run/docs/configuring/max-instances-limits: a regional quota of 1000 vCPU, the page's"
    " example, allows 1000 instances of 1 vCPU and 2 GiB; can be raised"
)
_SETTLE_S = 60  # survey, settle and verify, below the platform's time-out

CLOUD_TASKS = Known(
    "tasks",
    Platform(
        name="Cloud Tasks + Cloud Functions",
        most_slices=10_000,
        at_once=1000,
        starts_per_s=500,
        burst=500,
        cold_s=5,
        keeps_instances=True,
        deadline_s=30 * 60 - _SETTLE_S,
        usd_vcpu_s=0.000024,
        usd_gib_s=0.0000025,
        usd_invocation=0.40e-6,
    ),
    {
        "most_slices": "this project: max_slices of a configured backlog; a queue holds more",
        "at_once": _CLOUD_RUN_LIMITS,
        "starts_per_s": "Cloud Tasks API, RateLimits.max_dispatches_per_second: at most 500",
        "burst": f"{ASSUMED}: RateLimits.max_burst_size is the service's choice; one second's worth",
        "cold_s": f"{ASSUMED}: a Python instance that has to be started",
        "deadline_s": "Cloud Tasks API, Task.dispatch_deadline; run/docs/configuring/billing-settings:"
        " up to 30 minutes; less 60 s",
        "usd_vcpu_s": "cloud.google.com/run/pricing: tier 1 (us-central1), request-based billing",
        "usd_gib_s": f"{ASSUMED}: repeated by others of that page; seen there only for the vCPU",
        "usd_invocation": f"{ASSUMED}: as usd_gib_s, $0.40 a million requests",
    },
)
CLOUD_RUN_JOB = Known(
    "run",
    Platform(
        name="Cloud Run job",
        most_slices=10_000,
        at_once=1000,
        starts_per_s=10,
        burst=10,
        cold_s=10,
        deadline_s=168 * 3600 - _SETTLE_S,
        usd_vcpu_s=0.000018,
        usd_gib_s=0.000002,
        usd_invocation=0.0,
    ),
    {
        "most_slices": "Cloud Run, run/quotas: tasks in a single job",
        "at_once": _CLOUD_RUN_LIMITS + "; run/quotas on parallel tasks: depends on the region",
        "starts_per_s": f"{ASSUMED}: run/docs/configuring/parallelism has only 'as quickly as possible'",
        "burst": f"{ASSUMED}: likewise",
        "cold_s": f"{ASSUMED}: an image of 200 MB that has to be started",
        "deadline_s": "Cloud Run, run/docs/create-jobs: task time-out of 168 hours at most, less 60 s",
        "usd_vcpu_s": "cloud.google.com/run/pricing: tier 1 (us-central1), jobs",
        "usd_gib_s": f"{ASSUMED}: the page was seen as far as the price of the vCPU",
        "usd_invocation": "Cloud Run, run/docs/configuring/billing-settings: instance-based, not a request",
    },
)
AZURE_FLEX = Known(
    "flex",
    Platform(
        name="Azure Functions Flex",
        most_slices=10_000,
        at_once=1000,
        poll_s=30,
        starts_per_poll=4,
        cold_s=5,
        keeps_instances=True,
        paces_instances=True,
        deadline_s=30 * 60 - _SETTLE_S,
        bills_cold=False,
        least_billed_s=1,
        usd_vcpu_s=0.0,
        usd_gib_s=0.000026,
        usd_invocation=0.40e-6,
    ),
    {
        "most_slices": "this project: max_slices of a configured backlog; a queue holds more",
        "at_once": "azure-functions/flex-consumption-plan: 1000 instances; the memory quota of a"
        " subscription, 512,000 MB, allows 250 of 2048 MB until it is raised",
        "poll_s": "azure-functions/event-driven-scaling: new instances every 30 s at most, not HTTP;"
        " Flex is called fast, without a figure",
        "starts_per_poll": "azure-functions/functions-target-based-scaling: four instances at a time",
        "cold_s": f"{ASSUMED}: a Python instance that has to be started",
        "deadline_s": "azure-functions/functions-scale: 30 minutes by default, less 60 s",
        "bills_cold": "azure-functions/flex-consumption-plan: the time that code executes",
        "least_billed_s": "azure-functions/flex-consumption-plan: 1,000 ms",
        "usd_vcpu_s": "azure-functions/flex-consumption-plan: memory is billed, not the CPU",
        "usd_gib_s": "list price of East US as of May 2025, after modal.com/blog/azure-function-pricing-guide",
        "usd_invocation": f"{ASSUMED}: $0.40 a million executions",
    },
)
CONTAINER_APPS_JOB = Known(
    "apps",
    Platform(
        name="Azure Container Apps job",
        most_slices=10_000,
        at_once=100,
        poll_s=30,
        starts_per_poll=100,
        cold_s=20,
        usd_vcpu_s=0.000024,
        usd_gib_s=0.000003,
        usd_invocation=0.0,
    ),
    {
        "most_slices": "this project: max_slices of a configured backlog; a queue holds more",
        "at_once": "Azure Container Apps API, JobScale.maxExecutions: 100 by default; can be configured",
        "poll_s": "Azure Container Apps API, JobScale.pollingInterval: 30 s by default",
        "starts_per_poll": "Azure Container Apps API, JobScale.maxExecutions: for a trigger",
        "cold_s": f"{ASSUMED}: an image of 200 MB that has to be pulled and started",
        "usd_vcpu_s": f"{ASSUMED}: container-apps/billing names the unit, the price page no figure",
        "usd_gib_s": f"{ASSUMED}: likewise",
        "usd_invocation": "container-apps/billing: vCPU-seconds and GiB-seconds; HTTP requests alone cost",
    },
)
BATCH_FARGATE = Known(
    "batch",
    Platform(
        name="AWS Batch on Fargate",
        most_slices=10_000,
        at_once=10_000,
        starts_per_s=20,
        burst=100,
        cold_s=45,
        least_billed_s=60,
        usd_vcpu_s=0.000011244,
        usd_gib_s=0.004445 / 3600,
        usd_invocation=0.0,
    ),
    {
        "most_slices": "AWS Batch, batch/latest/userguide/service_limits: array size",
        "at_once": f"{ASSUMED}: the account's quota of Fargate vCPUs was raised to that",
        "starts_per_s": "Amazon ECS, AmazonECS/latest/userguide/throttling: 20 a second sustained",
        "burst": "Amazon ECS, AmazonECS/latest/userguide/throttling: bucket of 100",
        "cold_s": f"{ASSUMED}: 30-45 s or longer, after an answer on repost.aws",
        "least_billed_s": "one minute, after vantage.sh/blog/fargate-pricing",
        "usd_vcpu_s": "aws.amazon.com/ecs/pricing: Linux/x86, US East (N. Virginia), 2026-09-20",
        "usd_gib_s": "list price of us-east-1 as of June 2026, $0.004445 a GB-hour, after"
        " factualminds.com/blog/amazon-fargate-ecs-task-pricing-2026",
        "usd_invocation": f"{ASSUMED}: AWS Batch has no separate price",
    },
)
KUBERNETES = Known(
    "k8s",
    Platform(
        name="Kubernetes indexed job",
        most_slices=100_000,
        at_once=10_000,
        starts_per_s=20,
        burst=30,
        cold_s=5,
    ),
    {
        "most_slices": "kubernetes/kubernetes#98812: parallelism of an indexed job, 10^5",
        "at_once": f"{ASSUMED}: the cluster has room for as many pods",
        "starts_per_s": "kube-controller-manager, --kube-api-qps: 20 by default",
        "burst": "kube-controller-manager, --kube-api-burst: 30 by default",
        "cold_s": "kubernetes/community, sig-scalability/slos/pod_startup_latency: 5 s in the 99th"
        " percentile, without pulling the image",
        "usd_vcpu_s": "unknown: your own cluster",
        "usd_gib_s": "unknown: your own cluster",
        "usd_invocation": "unknown: your own cluster",
    },
)
PLATFORMS = (
    CLOUD_TASKS,
    CLOUD_RUN_JOB,
    AZURE_FLEX,
    CONTAINER_APPS_JOB,
    BATCH_FARGATE,
    KUBERNETES,
)


def figures(known: Sequence[Known]) -> str:
    """What platforms do and cost, as a Markdown table; *italics*: assumed."""
    rows = ["platform | starts | at once | cold start | one invocation reads | a slice for an hour"]
    rows.append(" | ".join(["---"] * 6))
    rows += [" | ".join(_row(item)) for item in known]
    return "\n".join(f"| {row} |" for row in rows)


def _row(item: Known) -> list[str]:
    platform = item.platform

    def cell(text: str, *names: str) -> str:
        return f"*{text}*" if set(names) & set(item.assumed) else text

    starts = (
        cell(f"{platform.starts_per_s:g} a second", "starts_per_s")
        + ", "
        + cell(f"the first {platform.burst:g} at once", "burst")
    )
    if platform.poll_s:
        starts = f"{platform.starts_per_poll:g} every {platform.poll_s:g} s"
    minutes = platform.deadline_s / 60
    longest = f"{minutes:.0f} min" if minutes < 60 else f"{minutes / 60:.0f} h"
    cost = platform.cost(3600, 1)
    return [
        f"{platform.name} (`{item.key}`)",
        starts,
        cell(f"{platform.at_once:,}", "at_once"),
        cell(f"{platform.cold_s:g} s", "cold_s"),
        longest if math.isfinite(minutes) else "no limit",
        cell(
            "unknown" if cost is None else f"${cost:.3f}", "usd_vcpu_s", "usd_gib_s", "usd_invocation"
        ),
    ]


def this_machine(processes: int) -> Platform:
    """A shell that starts all processes at once: no pace, no cold start."""
    return Platform(name="this machine", most_slices=math.inf, at_once=processes, cold_s=0)
