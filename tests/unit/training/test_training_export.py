"""The exported folder is one that the service loads, with the weights that were trained."""

from pathlib import Path

import torch

from service.checkpoints.checkpoint import build_model
from service.checkpoints.hf import save_hf_folder
from service.checkpoints.load import load_checkpoint
from training.export import builtin_generation, builtin_tokenizer
from training.network import Trainee, builtin_config
from training.vocabulary import DIGIT_IDS, EOT, NO_SPEECH, SOT, TIMESTAMP_BEGIN


def test_an_exported_model_is_loaded_by_the_service(tmp_path: Path) -> None:
    trainee = Trainee(builtin_config()).eval()
    save_hf_folder(
        tmp_path,
        trainee.whisper.state_dict(),
        trainee.whisper.config,
        tokenizer=builtin_tokenizer(),
        generation=builtin_generation(),
        dtype=torch.float16,
    )
    checkpoint = load_checkpoint(str(tmp_path))
    assert checkpoint.config == builtin_config()
    model = build_model(checkpoint)
    mel, tokens = torch.randn(1, 80, 128), torch.tensor([[SOT, TIMESTAMP_BEGIN]])
    with torch.inference_mode():
        assert torch.allclose(model(mel, tokens), trainee.whisper(mel, tokens), atol=0.02)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 8_000_000


def test_the_tokenizer_has_the_names_that_the_service_looks_for() -> None:
    tokenizer = builtin_tokenizer()
    assert not tokenizer.is_multilingual
    assert (tokenizer.eot, tokenizer.sot, tokenizer.no_speech) == (EOT, SOT, NO_SPEECH)
    assert tokenizer.timestamp_begin == TIMESTAMP_BEGIN
    assert tokenizer.decode(DIGIT_IDS[:2]) == " zero one"


def test_an_empty_transcript_is_allowed() -> None:
    generation = builtin_generation()
    assert EOT not in generation.suppress_tokens + generation.begin_suppress_tokens
    assert NO_SPEECH in generation.suppress_tokens
    assert generation.max_initial_timestamp_index is None


def test_key_biases_stay_zero_in_training() -> None:
    trainee = Trainee(builtin_config())
    logits = trainee.whisper(torch.randn(2, 80, 64), torch.tensor([[SOT, EOT]] * 2))
    logits.square().mean().backward()
    width = builtin_config().d_model
    gradients = {name: p.grad for name, p in trainee.whisper.decoder.blocks[0].named_parameters()}
    fused, cross = gradients["attn.qkv.bias"], gradients["cross_attn.key_value.bias"]
    assert fused is not None
    assert cross is not None
    assert fused[:width].any()
    assert not fused[width : 2 * width].any()
    assert not cross[:width].any()
