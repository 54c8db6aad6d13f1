"""Whose memory, threads and CPU time a service's are, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

import psutil
import pytest

from benchmarks.load import cpu_s
from benchmarks.own import ENGINE, cpu_time_s, processes_of
from benchmarks.peers.contestants import Contestant
from benchmarks.vitals import HELD, look
from service.serving import PROGRAM

METRICS = "".join(f"{name} 0\n" for name in ("earshot_event_loop_tasks", *HELD))
CHILD = """
import sys, time
while time.process_time() < 0.1:
    pass
print(flush=True)
sys.stdin.read()
"""
SERVICE = """
import subprocess, sys
pipe, command = subprocess.PIPE, [sys.executable, "-c", sys.argv[1]]
children = [subprocess.Popen([*command, name], stdin=pipe, stdout=pipe) for name in sys.argv[2:]]
for child in children:
    child.stdout.readline()
print(*(child.pid for child in children), flush=True)
sys.stdin.read()
"""


class Family(NamedTuple):
    """Processes like those of a service, at rest; they end with the test."""

    service: int
    engine: int
    decoder: int


@pytest.fixture
def family() -> Iterator[Family]:
    command = [sys.executable, "-c", SERVICE, CHILD, "service.audio.child", ENGINE]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        decoder, engine = map(int, process.stdout.readline().split())
        yield Family(process.pid, engine, decoder)


def test_the_engine_s_process_is_started_by_the_name_it_is_found_by() -> None:
    assert ENGINE in PROGRAM


def test_a_service_is_its_process_and_its_engine_s(family: Family) -> None:
    assert [process.pid for process in processes_of(family.service)] == [*family[:2]]


def test_a_service_without_an_engine_is_one_process() -> None:
    assert processes_of(os.getpid()) == [psutil.Process()]


def test_cpu_time_is_that_of_both(family: Family) -> None:
    service_s, engine_s = (cpu_time_s([process]) for process in processes_of(family.service))
    assert engine_s > 0
    assert cpu_s(family.service) == pytest.approx((service_s, service_s + engine_s))


def test_nothing_is_known_of_a_service_that_is_not_ours() -> None:
    assert cpu_s(None) is None


def test_a_contestant_s_peak_is_that_of_both(family: Family) -> None:
    both_mb = sum(psutil.Process(pid).memory_info().rss for pid in family[:2]) / 1e6
    assert Contestant("", "", family.service, 0.0).peak_mb > 0.9 * both_mb
    alone_mb = Contestant("", "", family.engine, 0.0).peak_mb
    assert Contestant("", "", family.service, 0.0).peak_mb > alone_mb


def test_vitals_are_of_both_and_the_engine_s_process_is_no_child(family: Family) -> None:
    seen = look(family.service, METRICS)
    both = [psutil.Process(pid) for pid in family[:2]]
    assert seen.threads == sum(process.num_threads() for process in both)
    assert seen.descriptors == sum(process.num_fds() for process in both)
    assert seen.children == 1
    assert seen.memory_mb > sum(process.memory_info().rss for process in both) / 1e6
