"""What a service holds, seen from outside: its processes, and its own account of itself.

Knows nothing about what is asked of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.own import processes_of

MEGABYTE = 1e6
LAG = "earshot_event_loop_lag_seconds_bucket"
HELD = (
    "earshot_requests_running",
    "earshot_window_slots_used",
    "earshot_decoder_rows_used",
    "earshot_queue_audio_seconds",
)
"""All of these are 0 when nothing runs."""
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Of asyncio's own pool, which starts one when it wants one, and keeps it."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at a service.

    Attributes:
        at_s: `time.monotonic()` of it.
        memory_mb: resident, of the service's process and all of its children.
        descriptors, threads: of the service's process and its engine's.
        children: that decode audio or detect speech; the engine's process is not counted.
        tasks: on its event loop.
        held: by name, what requests hold.
    """

    at_s: float
    memory_mb: float
    descriptors: int
    threads: int
    children: int
    tasks: int
    held: Mapping[str, float]

    def beyond(self, other: Vitals) -> list[str]:
        """Return in words what is more than it was, memory apart; nothing may be held at all.

        The threads of asyncio's pool may have been started since: so many more are none too many.
        """
        more = [
            f"{getattr(self, name) - getattr(other, name)} more {name}"
            for name in ("descriptors", "threads", "children", "tasks")
            if getattr(self, name) > getattr(other, name) + (name == "threads") * POOL_THREADS
        ]
        return more + [f"{value:g} in {name}" for name, value in self.held.items() if value]


def look(pid: int, metrics: str) -> Vitals:
    """Return the vitals of a service, by its process, whose `/metrics` says this."""
    processes = processes_of(pid)
    children = set(psutil.Process(pid).children(recursive=True)) - set(processes)
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if not sample.labels
    }
    return Vitals(
        at_s=time.monotonic(),
        memory_mb=sum(each.memory_info().rss for each in (*processes, *children)) / MEGABYTE,
        descriptors=sum(each.num_fds() for each in processes),
        threads=sum(each.num_threads() for each in processes),
        children=len(children),
        tasks=int(values["earshot_event_loop_tasks"]),
        held={name: values[name] for name in HELD},
    )


def slope_mb_per_min(looks: Sequence[Vitals]) -> float:
    """Return how fast resident memory grows: the median of the slopes of all pairs (Theil-Sen)."""
    slopes = sorted(
        60 * (later.memory_mb - earlier.memory_mb) / (later.at_s - earlier.at_s)
        for place, earlier in enumerate(looks)
        for later in looks[place + 1 :]
    )
    if not slopes:
        return 0.0
    middle = len(slopes) // 2
    return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2


def lag_buckets(metrics: str) -> dict[float, float]:
    """Return how many measurements of the loop's lag were at most so many seconds."""
    return {
        float(sample.labels["le"]): sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == LAG
    }


def lag_at_most_s(before: Mapping[float, float], after: Mapping[float, float], q: float) -> float:
    """Return the bucket's bound under which the lag was in a share `q` of the time between."""
    counts = {bound: after[bound] - before[bound] for bound in after}
    wanted = q * counts[float("inf")]
    return min(bound for bound, count in counts.items() if count >= wanted)


def ask(client: httpx.Client) -> str:
    """Return what `/metrics` says."""
    response = client.get("/metrics")
    response.raise_for_status()
    return response.text
