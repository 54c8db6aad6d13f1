"""The plan for a GPU, run on the CPU with a model of no size: all of it but the speed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.gpu import SIZES, Outcome, Plan, check, differing, floor_s, measure, measure_peer
from benchmarks.gpu_engine import Bench, random_model

CPU = torch.device("cpu")
PLAN = Plan(CPU, torch.float32, slots=4, n_tokens=6, seconds=0.5, ends_at=float("inf"))


@pytest.mark.parametrize(("name", "micro_s"), [("tiny", 161), ("turbo", 555), ("large-v3", 4191)])
def test_floor_of_a_step_of_64_rows_is_that_of_an_h200(name: str, micro_s: int) -> None:
    floor = floor_s(SIZES[name], torch.bfloat16, 64, 4.3e12)
    assert 1e6 * floor == pytest.approx(micro_s, rel=0.02)


def test_plan_runs_and_finds_nothing_wrong() -> None:
    outcome = Outcome()
    measure("micro", PLAN, 1e10, outcome)
    assert outcome.faults == []
    assert outcome.cells["batch == alone"] == outcome.cells["fixed shapes == eager"] == "yes"
    assert float(outcome.cells["times real time"]) > 0
    assert "ended" in outcome.cells["soak"]


def test_peer_says_as_many_tokens_and_has_a_rate() -> None:
    outcome = Outcome()
    measure_peer("micro", PLAN, outcome)
    assert "times real time" in outcome.cells["transformers"]


def test_a_step_that_depends_on_the_company_is_found() -> None:
    model = random_model(SIZES["micro"], CPU, torch.float32)
    bench, outcome = Bench(model, 8, 6), Outcome()

    def by_batch(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + 1e-3 * len(output))

    model.decoder.ln.register_forward_hook(by_batch)
    with bench.runner.on_thread():
        check(bench, replace(PLAN, slots=8), outcome)
    assert any("batch == alone" in fault for fault in outcome.faults)


def test_windows_that_differ_are_counted() -> None:
    assert differing({1: [1], 2: [2]}, {1: [1], 2: [2]}) == ""
    assert differing({1: [1], 2: [2]}, {1: [1], 2: [3]}) == "1 of 2 windows differ"
