"""What this process holds, and what is left of a test that should have given it back.

A test's servers run in this process: their threads, descriptors and children are its own.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.api.live import LiveServer, until

DESCRIPTORS = Path("/proc/self/fd")
POOLED = ("asyncio_", "listening_")
"""Threads that wait in asyncio's own pool, and a server's, for the next call: they are kept."""
NUMBER = re.compile(r"[-_]?\d+$")
DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Held:
    """One look at this process and at the servers that run in it.

    Attributes:
        threads: names of threads without their numbers, counted.
        descriptors: what open files are, counted.
        children: processes, zombies included.
        tasks: on the event loops of the servers.
    """

    threads: Counter[str]
    descriptors: Counter[str]
    children: int
    tasks: int

    def beyond(self, before: Held) -> dict[str, object]:
        """Return what is more than it was."""
        more: dict[str, object] = {
            "threads": self.threads - before.threads,
            "descriptors": self.descriptors - before.descriptors,
            "children": max(0, self.children - before.children),
            "tasks": max(0, self.tasks - before.tasks),
        }
        return {name: value for name, value in more.items() if value}


def held() -> Held:
    """Return what this process holds now."""
    names = [t.name for t in threading.enumerate() if not t.name.startswith(POOLED)]
    kinds: Counter[str] = Counter()
    for descriptor in DESCRIPTORS.iterdir() if DESCRIPTORS.exists() else ():
        try:
            kinds[str(descriptor.readlink()).partition(":")[0]] += 1
        except OSError:
            continue  # it was the listing's own
    return Held(
        Counter(NUMBER.sub("", name) for name in names),
        kinds,
        len(psutil.Process().children()),
        sum(len(asyncio.all_tasks(server.loop)) for server in LiveServer.running),
    )


def at_rest() -> Held:
    """Return what is held when every server in this process has nothing to do."""
    for server in LiveServer.running:
        server.rest()
    return held()


def nothing_is_left_of(before: Held) -> None:
    """Wait until no more is held than before.

    Raises:
        AssertionError: if that is not so in time; says what is left.
    """
    for server in LiveServer.running:
        server.rest()
    more: dict[str, object] = {}

    def settled() -> bool:
        nonlocal more
        more = held().beyond(before)
        return not more

    try:
        until(settled, "", DEADLINE_S)
    except TimeoutError:
        raise AssertionError(f"left of the test: {more}") from None
