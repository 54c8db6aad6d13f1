"""Floors and the parts of a profile add up."""

from __future__ import annotations

import pytest
import torch

from benchmarks.machine import Machine
from benchmarks.profiling import Profile, table
from benchmarks.random_model import TINY
from benchmarks.roofline import encoder_floor_s, step_floor_s
from benchmarks.stopwatch import Stopwatch
from service.model.numerics import MIXED, MIXED_DECODER, PLAIN

MACHINE = Machine(26e9, {torch.float32: 200e9, torch.bfloat16: 400e9, torch.int8: 800e9})


def test_floors_of_whisper_tiny_are_those_computed_by_hand() -> None:
    """36.9 GFLOP in the encoder and 3.5 for cross keys; 131 MB read at batch 1 in float32."""
    assert encoder_floor_s(TINY, PLAIN, MACHINE) == pytest.approx(40.4e9 / 200e9, rel=0.01)
    assert step_floor_s(TINY, PLAIN, MACHINE, 1) == pytest.approx(131e6 / 26e9, rel=0.03)


def test_a_faster_product_and_smaller_weights_lower_the_floor() -> None:
    assert encoder_floor_s(TINY, MIXED, MACHINE) < 0.6 * encoder_floor_s(TINY, PLAIN, MACHINE)
    assert encoder_floor_s(TINY, MIXED_DECODER, MACHINE) == encoder_floor_s(TINY, PLAIN, MACHINE)
    for batch in (1, 8, 16):
        mixed, plain = (step_floor_s(TINY, n, MACHINE, batch) for n in (MIXED, PLAIN))
        assert mixed < 0.6 * plain


def test_own_times_of_nested_calls_add_up_to_the_outermost() -> None:
    class Thing:
        def outer(self) -> int:
            return self.inner() + self.inner()

        def inner(self) -> int:
            return sum(range(2000))

    thing, stopwatch = Thing(), Stopwatch()
    stopwatch.watch("inner", thing, "inner")
    stopwatch.watch("outer", thing, "outer")
    stopwatch.watch("all", thing, "outer")
    thing.outer()
    assert stopwatch.calls == {"inner": 2, "outer": 1, "all": 1}
    assert all(seconds > 0 for seconds in stopwatch.seconds.values())


def test_table_of_a_profile_has_the_largest_part_first() -> None:
    text = table({"batch 1": Profile({"a": 1.0, "b": 3.0}, 4.0)})
    assert text.splitlines()[2:] == [
        "| b | 3.00 (75%) |",
        "| a | 1.00 (25%) |",
        "| **all** | **4.00** |",
    ]
