"""What is compiled of `compiled.c`, if gcc was there when the service was installed.

On Linux on x86-64, once for CPUs with AVX-512 and its VNNI and once for those with AVX2 and FMA;
without them torch's own operations serve (docs/adr/0021-what-is-compiled.md). Knows nothing about
what the functions are for.
"""

from __future__ import annotations

import ctypes
import logging
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

LANES = 16
"""Numbers of float32 in the widest vector; rows are a multiple of it."""
_WITHOUT_RESULT = (
    "integer_linear", "project_positions", "mix_positions", "attend_in_integers", "keep_rules",
    "weigh_tokens",
)  # fmt: skip


class NormStruct(ctypes.Structure):
    """A LayerNorm as what is compiled knows it."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p))


def instructions() -> str | None:
    """Return for which of this CPU's instructions something is compiled, if for any.

    torch can be told to use fewer (`ATEN_CPU_CAPABILITY=avx2`), and so is this.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability == "AVX512" and torch.cpu._is_vnni_supported():
        return "avx512"
    return "avx2" if capability in {"AVX2", "AVX512"} else None


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions; None where there are none, or they cannot be used."""
    of_cpu = instructions()
    return None if of_cpu is None else load(of_cpu)


def load(of_cpu: str) -> ctypes.CDLL | None:
    """Return the functions that are compiled for some instructions, `library` knows which."""
    name = f"_compiled_{of_cpu}{sysconfig.get_config_var('EXT_SUFFIX')}"
    path = Path(__file__).with_name(name)
    if not path.exists():
        logger.info(
            "nothing is compiled (no gcc at installation?): steps take two to five times as long"
        )
        return None
    if is_older(path, path.with_name("compiled.c")):
        logger.warning("%s is older than its source, and is not used: make setup", name)
        return None
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        logger.warning("%s cannot be loaded: %s", name, error)
        return None
    if not shares_threads(found):
        logger.warning("%s brings another OpenMP than torch's, and is not used", name)
        return None
    found.decode.restype = found.workspace_bytes.restype = ctypes.c_int64
    for function in _WITHOUT_RESULT:
        getattr(found, function).restype = None
    return found


def is_older(path: Path, source: Path) -> bool:
    """Whether a library is older than its source, which is there in a checkout only.

    If that was updated since, it may have other structs.
    """
    return source.exists() and path.stat().st_mtime < source.stat().st_mtime


def shares_threads(found: ctypes.CDLL) -> bool:
    """Whether its threads are torch's (docs/adr/0017-one-thread-computes-with-torch.md)."""
    n_threads = torch.get_num_threads()
    try:
        for number in (n_threads + 1, n_threads + 2):
            torch.set_num_threads(number)
            if found.threads() != number:
                return False
    finally:
        torch.set_num_threads(n_threads)
    return True


def address(tensor: Tensor) -> ctypes.c_void_p:
    """Return where a tensor's numbers are; it has to be kept for as long as that is used."""
    return ctypes.c_void_p(tensor.data_ptr())
