"""Keeps the process's memory where it is. Knows nothing about who asks for memory.

glibc gives threads pools of their own, eight for each CPU. What one thread frees there, the next
does not find, and over hours every pool grows to the most that it ever held; what is free at the
end of one is given back for the first pool only. One is enough here: of what the service's threads
do, little is to ask for memory (docs/adr/0014). What is free in it is given back when the service
has nothing to do.
"""

from __future__ import annotations

import ctypes
import gc
import os

VARIABLE = "MALLOC_ARENA_MAX"
"""With it in the environment, glibc has been told already."""
_M_ARENA_MAX = -8


def keep_one_arena() -> None:
    """Let threads share one pool. Call it before they are started; only glibc has several."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and VARIABLE not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


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
