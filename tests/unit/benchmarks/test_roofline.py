"""Floors and the parts of a profile add up."""

from __future__ import annotations

import pytest
import torch

from benchmarks.machine import Machine
from benchmarks.profiling import Profile, table
from benchmarks.random_model import TINY
from benchmarks.roofline import Reads, encoder_floor_s, step_floor_s
from benchmarks.stopwatch import Stopwatch
from service.model.numerics import INT8, MIXED, MIXED_DECODER, PLAIN

MACHINE = Machine(26e9, {torch.float32: 200e9, torch.bfloat16: 400e9, torch.int8: 800e9})


F32, BF16, INT8_ = torch.float32, torch.bfloat16, torch.int8
MIXED_READS = Reads(BF16, INT8_, BF16, BF16, BF16)
INT8_READS = Reads(INT8_, INT8_, BF16, BF16, F32)


def test_floors_of_whisper_tiny_are_those_computed_by_hand() -> None:
    """36.9 GFLOP in the encoder and 3.5 for cross keys; 131 MB read at batch 1 in float32.

    In integers, attention is 13.8 GFLOP of that and half as much again; 39 MB are read.
    """
    encoder = encoder_floor_s(TINY, PLAIN, MACHINE, F32)
    assert encoder == pytest.approx(40.4e9 / 200e9, rel=0.01)
    assert step_floor_s(TINY, Reads(), MACHINE, 1) == pytest.approx(131e6 / 26e9, rel=0.03)
    convolutions = 1.9e9 / 200e9
    in_integers = encoder_floor_s(TINY, INT8, MACHINE, INT8_)
    assert in_integers == pytest.approx(convolutions + (38.5e9 + 6.9e9) / 800e9, rel=0.02)
    assert step_floor_s(TINY, INT8_READS, MACHINE, 1) == pytest.approx(38e6 / 26e9, rel=0.03)


def test_a_faster_product_and_smaller_weights_lower_the_floor() -> None:
    plain = encoder_floor_s(TINY, PLAIN, MACHINE, F32)
    assert encoder_floor_s(TINY, MIXED, MACHINE, BF16) < 0.6 * plain
    assert encoder_floor_s(TINY, MIXED_DECODER, MACHINE, F32) == plain
    assert encoder_floor_s(TINY, INT8, MACHINE, INT8_) < encoder_floor_s(TINY, INT8, MACHINE, F32)
    for batch in (1, 8, 16):
        floors = [
            step_floor_s(TINY, reads, MACHINE, batch)
            for reads in (INT8_READS, MIXED_READS, Reads())
        ]
        assert floors == sorted(floors)
        assert floors[1] < 0.6 * floors[2]


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
