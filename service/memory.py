"""Keeps the process's memory where it is. Knows nothing about who asks for memory.

glibc gives threads pools of their own, eight for each CPU. What one thread frees there, the next
does not find, and over hours every pool grows to the most that it ever held. Two are enough here:
of what the service's threads do, little is to ask for memory (docs/adr/0014). What is free in
between is given back when the service has nothing to do.
"""

from __future__ import annotations

import ctypes
import gc
import os

VARIABLE = "MALLOC_ARENA_MAX"
"""With it in the environment, glibc has been told already."""
ARENAS = 2
_M_ARENA_MAX = -8


def keep_few_arenas() -> None:
    """Bound glibc's pools. Call it before threads are started; other libraries have none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and VARIABLE not in os.environ:
        mallopt(_M_ARENA_MAX, ARENAS)


def keep_what_is_there() -> None:
    """Let the garbage collector pass over what there is now, for good.

    To be called when the model is loaded. From then on a full collection holds everything up for
    milliseconds, and comes as soon as requests have left something, not when that is a quarter of
    all that libraries and model brought.
    """
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Return the pages that nothing lies on to the system. It takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
