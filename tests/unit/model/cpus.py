"""What the CPU that runs the tests has."""

from __future__ import annotations

import os
from collections.abc import Callable
from ctypes import CDLL

import pytest
import torch

from service.model.compiled import instructions, library, load
from service.model.config import WhisperConfig
from service.model.numerics import Numerics, choose_numerics

CPU = torch.device("cpu")


def here(name: str, config: WhisperConfig | None = None) -> Numerics:
    """The numerics of a name, or a skip where this CPU has not the instructions."""
    try:
        return choose_numerics(name, CPU, torch.float32, config)
    except ValueError as error:
        pytest.skip(str(error))


INSTRUCTIONS = ("avx512", "avx2")
"""For which something is compiled, each of which includes those that follow."""


def has_vnni() -> None:
    """Skip where oneDNN's products of 8-bit integers overflow."""
    if not torch.cpu._is_vnni_supported():
        pytest.skip("needs a CPU with avx512_vnni, and this one has none")


def leave_out_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's own operations serve, as where there was no C compiler."""
    _serve(monkeypatch, lambda: None)


def compiled_for(of_cpu: str, monkeypatch: pytest.MonkeyPatch) -> CDLL:
    """Let what is compiled for these instructions serve; a skip where this CPU has them not."""
    here = instructions()
    if here is None or INSTRUCTIONS.index(here) > INSTRUCTIONS.index(of_cpu):
        pytest.skip(f"needs a CPU with {of_cpu} and its VNNI" if here else "needs a CPU with avx2")
    _serve(monkeypatch, lambda: load(of_cpu))
    return _required(load(of_cpu))


def compiled() -> CDLL:
    """What is compiled, or a skip where it was not, or for none of this CPU's instructions."""
    if instructions() is None:
        pytest.skip("needs a CPU with avx2, and this one has none")
    return _required(library())


def _serve(monkeypatch: pytest.MonkeyPatch, serving: Callable[[], CDLL | None]) -> None:
    modules = (
        "model.numerics",
        "model.packed",
        "model.int8",
        "decoding.rules",
        "decoding.sampling",
    )
    for module in modules:
        monkeypatch.setattr(f"service.{module}.library", serving)


def _required(found: CDLL | None) -> CDLL:
    if found is None and os.environ.get("REQUIRE_COMPILED"):
        pytest.fail("nothing is compiled, and REQUIRE_COMPILED is set")
    if found is None:
        pytest.skip("nothing is compiled: was there no gcc at installation?")
    return found
