from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import sys

import psutil
import pytest

from service.memory import VARIABLE, give_back, keep_what_is_there
from tests.process.running import environment

KEEP_A_THREADS_MEMORY = """
import ctypes, threading
import psutil
from service.memory import give_back, keep_one_arena

keep_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
# From now on what is free at the end of a pool stays there, up to twice as much as this.
libc.free(libc.malloc(24 << 20))

def use():
    blocks = [libc.malloc(1 << 16) for _ in range(500)]
    for block in blocks:
        ctypes.memset(block, 1, 1 << 16)
    for block in blocks:
        libc.free(block)

before = psutil.Process().memory_info().rss
thread = threading.Thread(target=use)
thread.start()
thread.join()
give_back()
print(psutil.Process().memory_info().rss - before)
"""

COUNT_ARENAS = """
import ctypes, os, sys, threading
from service.memory import keep_one_arena

keep_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
together = threading.Barrier(6)

def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
stdout = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, stdout)
libc.fclose(stdout)
"""


def said_by(code: str, **variables: str) -> str:
    """Return what a process of its own prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


def arenas(**variables: str) -> int:
    """Return how many pools six threads have at once in a process that keeps one."""
    return said_by(COUNT_ARENAS, **variables).count("<heap nr=")


only_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has such pools"
)


@only_glibc
def test_threads_share_one_pool_of_memory_unless_the_environment_says_otherwise() -> None:
    assert arenas() == 1
    assert arenas(**{VARIABLE: "4"}) == 4


@only_glibc
def test_what_another_thread_has_freed_is_given_back() -> None:
    assert int(said_by(KEEP_A_THREADS_MEMORY)) < 500 * (1 << 16) / 10


def test_the_collector_passes_over_what_is_there() -> None:
    try:
        keep_what_is_there()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 10_000
    finally:
        gc.unfreeze()


@only_glibc
def test_what_is_free_below_something_used_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    size, count = 64 * 1024, 2000
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:
        libc.free(block)
    kept = psutil.Process().memory_info().rss
    give_back()
    assert kept - psutil.Process().memory_info().rss > size * count * 0.9
    libc.free(blocks[-1])
