from __future__ import annotations

import ctypes
import gc
import platform
import subprocess
import sys

import psutil
import pytest

from service.memory import ARENAS, VARIABLE, give_back, keep_what_is_there
from tests.process.running import environment

COUNT_ARENAS = """
import ctypes, os, sys, threading
from service.memory import keep_few_arenas

keep_few_arenas()
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


def arenas(**variables: str) -> int:
    """Return how many pools six threads have at once in a process that keeps few."""
    ended = subprocess.run(
        [sys.executable, "-c", COUNT_ARENAS],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.count("<heap nr=")


only_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has such pools"
)


@only_glibc
def test_threads_share_few_pools_of_memory_unless_the_environment_says_otherwise() -> None:
    assert arenas() <= ARENAS
    assert arenas(**{VARIABLE: "4"}) == 4


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
