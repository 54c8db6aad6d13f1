"""What a step of training computes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from training import train
from training.data import Batch
from training.network import Trainee, builtin_config
from training.targets import IGNORE, collate, token_targets
from training.train import Options, learning_rate, losses, with_own_times
from training.vocabulary import (
    DIGIT_IDS,
    EOT,
    NO_SPEECH,
    NO_TIMESTAMPS,
    SOT,
    SOT_PREV,
    TIMESTAMP_BEGIN,
)

LATE = TIMESTAMP_BEGIN + 1234
DIGITS = [SOT, TIMESTAMP_BEGIN, DIGIT_IDS[4], TIMESTAMP_BEGIN + 20]


@pytest.fixture(name="batch")
def made_batch() -> Batch:
    """Four windows: silence with a time, after a prompt, without times; and a digit."""
    rows = [
        ([SOT, LATE], [NO_SPEECH, EOT]),
        ([SOT_PREV, DIGIT_IDS[0], SOT, LATE], [IGNORE, IGNORE, NO_SPEECH, EOT]),
        ([SOT, NO_TIMESTAMPS], [NO_SPEECH, EOT]),
        (DIGITS, [*DIGITS[1:], EOT]),
    ]
    inputs = torch.tensor([row + [EOT] * (4 - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [IGNORE] * (4 - len(row)) for _, row in rows])
    heard = torch.zeros(4, 32, dtype=torch.int64)
    return Batch(torch.randn(4, 80, 64), inputs, labels, heard, heard)


def test_where_there_are_no_digits_the_models_own_first_time_is_given(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "OWN_TIMES", 1.0)
    torch.manual_seed(0)
    model = Trainee(builtin_config()).eval()
    encoder_output = model.whisper.encoder(batch.mel)
    inputs = with_own_times(model, encoder_output, batch)
    for row, start in ((0, 0), (1, 2)):
        only = slice(row, row + 1)
        said = model.whisper.decoder(batch.inputs[only, : start + 1], encoder_output[only])
        best = TIMESTAMP_BEGIN + int(said[0, -1, TIMESTAMP_BEGIN:].argmax())
        assert best != LATE
        assert inputs[row].tolist()[start : start + 2] == [SOT, best]
    changed = (inputs != batch.inputs).nonzero().tolist()
    assert changed == [[0, 1], [1, 3]]


def test_without_timestamps_nothing_is_replaced() -> None:
    targets = token_targets([], random.Random(0), timestamps=False)
    inputs, labels = collate([targets])
    heard = torch.zeros(1, 32, dtype=torch.int64)
    batch = Batch(torch.randn(1, 80, 64), inputs, labels, heard, heard)
    model = Trainee(builtin_config())
    assert with_own_times(model, model.whisper.encoder(batch.mel), batch) is batch.inputs


def test_both_losses_reach_every_weight_that_is_shipped(batch: Batch) -> None:
    model = Trainee(builtin_config())
    said, heard = losses(model, batch)
    torch.autograd.backward(said + heard)
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == []


def test_a_run_from_released_weights_warms_up_too(tmp_path: Path) -> None:
    options = Options(tmp_path, tmp_path, 10.0, 1e-3, None, 5500, bfloat16=False)
    assert learning_rate(options, 5500, 0.0) == pytest.approx(1e-3 / 400)
    assert learning_rate(options, 5900, 0.0) == pytest.approx(1e-3)
    assert learning_rate(options, 9000, 600.0) == pytest.approx(0.0)
