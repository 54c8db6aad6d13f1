from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.audio.mel import LogMelSpectrogram
from service.checkpoints import CheckpointFormat, build_model
from service.model import WhisperModel
from tests.parity.compare import (
    ENCODER_TOLERANCE,
    LOGITS_TOLERANCE,
    Reference,
    assert_lively,
    assert_tokens_match,
    greedy,
    largest,
    waveforms,
)
from tests.parity.recipes import N_STEPS, Shape, digest, openai_tensors
from tests.parity.record_openai import DATA, prompts, sampled_places
from tests.parity.served import write_checkpoint
from tests.parity.shapes import OPENAI
from tests.parity.tally import Tally
from tests.parity.vocabulary import n_text_of, special_tokens, text_tokens

pytestmark = pytest.mark.timeout(600)


def _our_model(shape: Shape, recorded: Any, folder: Path) -> WhisperModel:
    """Write the checkpoint as OpenAI does, read it as a user does."""
    tensors = openai_tensors(shape)
    assert digest(tensors) == str(recorded["weights_sha256"]), "not the weights of the recording"
    text = text_tokens(n_text_of(shape.n_vocab, 0))
    checkpoint = write_checkpoint(folder, shape, tensors, text, special_tokens(0))
    assert checkpoint.format is CheckpointFormat.OPENAI
    return build_model(checkpoint)


@pytest.mark.parametrize("shape", OPENAI, ids=lambda shape: shape.name)
def test_openai_whisper_gave_the_same_encoder_output_logits_and_tokens(
    shape: Shape, tmp_path: Path, tally: Tally
) -> None:
    recorded = np.load(DATA / f"{shape.name}.npz")
    ours = _our_model(shape, recorded, tmp_path)
    rows = zip(recorded["tokens"].tolist(), recorded["margins"].tolist(), strict=True)
    references = [Reference(tokens, margins) for tokens, margins in rows]
    assert_lively(references)

    mel = LogMelSpectrogram(shape.n_mels)(waveforms(shape))
    encoded = ours.encode(mel)
    places = sampled_places(shape, tuple(encoded.shape), 1)
    assert largest(encoded.numpy()[places] - recorded["encoder_output"]) < ENCODER_TOLERANCE

    starts = prompts(shape)
    forced = [p + list(r.tokens) for p, r in zip(starts, references, strict=True)]
    logits = ours.decoder(torch.tensor(forced), encoded)
    places = sampled_places(shape, tuple(logits.shape), 2)
    assert largest(logits.numpy()[places] - recorded["logits"]) < LOGITS_TOLERANCE

    together = greedy(ours, encoded, starts, N_STEPS)
    for found, reference in zip(together, references, strict=True):
        assert_tokens_match(found, reference, tally)
    (found,) = greedy(ours, encoded[:1], starts[:1], N_STEPS)
    assert_tokens_match(found, references[0], tally)
    tally.checkpoints += 1
