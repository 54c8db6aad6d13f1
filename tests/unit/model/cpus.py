"""What the CPU that runs the tests has."""

from __future__ import annotations

import os
from ctypes import CDLL

import pytest
import torch

from service.model.compiled import library
from service.model.numerics import Numerics, choose_numerics

CPU = torch.device("cpu")


def here(name: str) -> Numerics:
    """The numerics of a name, or a skip where this CPU has not the instructions."""
    try:
        return choose_numerics(name, CPU, torch.float32)
    except ValueError as error:
        pytest.skip(str(error))


def leave_out_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's own operations serve, as where there was no C compiler."""
    for module in (
        "model.numerics",
        "model.packed",
        "model.int8",
        "decoding.rules",
        "decoding.sampling",
    ):
        monkeypatch.setattr(f"service.{module}.library", lambda: None)


def compiled() -> CDLL:
    """What is compiled, or a skip where it was not, or this CPU has not the instructions."""
    if not torch.cpu._is_vnni_supported():
        pytest.skip("needs a CPU with avx512_vnni, and this one has none")
    found = library()
    if found is None and os.environ.get("REQUIRE_COMPILED"):
        pytest.fail("nothing is compiled, and REQUIRE_COMPILED is set")
    if found is None:
        pytest.skip("nothing is compiled: was there no gcc at installation?")
    return found
