from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from service.audio.mel import LogMelSpectrogram
from service.checkpoints import build_model, load_checkpoint, save_hf_folder
from service.checkpoints.names import HF_HEAD
from service.model import WhisperModel
from service.text.tokenizer import load_tokenizer
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
from tests.parity.recipes import N_STEPS, Shape, lively
from tests.parity.shapes import HF
from tests.parity.tally import Tally
from tests.parity.tokens import write_tokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(600)


def _their_model(shape: Shape) -> Any:
    config = transformers.WhisperConfig(
        num_mel_bins=shape.n_mels,
        max_source_positions=shape.n_audio_ctx,
        d_model=shape.d_model,
        encoder_attention_heads=shape.audio_head,
        encoder_layers=shape.audio_layer,
        encoder_ffn_dim=shape.audio_ffn or 4 * shape.d_model,
        vocab_size=shape.n_vocab,
        max_target_positions=shape.n_text_ctx,
        decoder_attention_heads=shape.text_head,
        decoder_layers=shape.text_layer,
        decoder_ffn_dim=shape.text_ffn or 4 * shape.d_model,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    names = [name for name in model.state_dict() if name != HF_HEAD]
    state = {
        name: torch.from_numpy(lively(name, tuple(model.state_dict()[name].shape), shape.seed))
        for name in names
    }
    missing = model.load_state_dict(state, strict=False)
    assert missing.missing_keys in ([], [HF_HEAD])
    return model


def _prompts(shape: Shape) -> list[list[int]]:
    """One prompt a row, all of the same length, which the reference's batch needs."""
    return [[(17 * row + 5 * i + 1) % shape.n_vocab for i in range(4)] for row in range(shape.rows)]


def _their_greedy(model: Any, encoded: Tensor, prompts: Sequence[list[int]]) -> list[Reference]:
    wrapped = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=encoded)
    tokens, cache = torch.tensor(prompts), None
    chosen, margins = [], []
    for _ in range(N_STEPS):
        out = model(
            encoder_outputs=wrapped,
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        best = out.logits[:, -1].topk(2)
        tokens = best.indices[:, :1]
        chosen.append(tokens[:, 0])
        margins.append(best.values[:, 0] - best.values[:, 1])
    rows = zip(torch.stack(chosen, 1).tolist(), torch.stack(margins, 1).tolist(), strict=True)
    return [Reference(row_tokens, row_margins) for row_tokens, row_margins in rows]


def _our_model(theirs: Any, shape: Shape, folder: Path) -> WhisperModel:
    theirs.save_pretrained(folder)
    write_tokenizer(folder, shape.n_vocab)
    return build_model(load_checkpoint(folder))


@pytest.mark.parametrize("shape", HF, ids=lambda shape: shape.name)
def test_transformers_gives_the_same_encoder_output_logits_and_tokens(
    shape: Shape, tmp_path: Path, tally: Tally
) -> None:
    theirs = _their_model(shape)
    ours = _our_model(theirs, shape, tmp_path)
    mel = LogMelSpectrogram(shape.n_mels)(waveforms(shape))
    encoded = theirs.model.encoder(mel).last_hidden_state
    assert largest(ours.encode(mel) - encoded) < ENCODER_TOLERANCE

    prompts = _prompts(shape)
    references = _their_greedy(theirs, encoded, prompts)
    assert_lively(references)

    forced = torch.tensor([p + list(r.tokens) for p, r in zip(prompts, references, strict=True)])
    forced = forced[:, : shape.n_text_ctx]
    expected = theirs(
        encoder_outputs=transformers.modeling_outputs.BaseModelOutput(last_hidden_state=encoded),
        decoder_input_ids=forced,
    ).logits
    assert largest(ours(mel, forced) - expected) < LOGITS_TOLERANCE

    together = greedy(ours, ours.encode(mel), prompts, N_STEPS)
    for found, reference in zip(together, references, strict=True):
        assert_tokens_match(found, reference, tally)
    alone = shape.rows - 1
    row = slice(alone, alone + 1)
    (found,) = greedy(ours, ours.encode(mel[row]), prompts[row], N_STEPS)
    assert_tokens_match(found, references[alone], tally)
    tally.checkpoints += 1


def test_transformers_generate_agrees_with_our_greedy_decoding(tmp_path: Path) -> None:
    shape = Shape("generate", 80, 120, 64, 4, 2, 4, 2, 2100)
    theirs = _their_model(shape)
    ours = _our_model(theirs, shape, tmp_path)
    mel = LogMelSpectrogram(shape.n_mels)(waveforms(shape))
    prompts = _prompts(shape)
    generated = theirs.generate(
        input_features=mel,
        decoder_input_ids=torch.tensor(prompts),
        generation_config=transformers.GenerationConfig(
            max_new_tokens=60, do_sample=False, eos_token_id=None, pad_token_id=0
        ),
    )
    found = greedy(ours, ours.encode(mel), prompts, 60)
    assert [row[-60:] for row in generated.tolist()] == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_transformers_reads_what_we_save_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    shape = Shape("round-trip", 128, 100, 60, 5, 2, 3, 3, 1800, 70, 90)
    theirs = _their_model(shape).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    write_tokenizer(tmp_path / "theirs", shape.n_vocab)
    loaded = load_checkpoint(tmp_path / "theirs")

    save_hf_folder(
        tmp_path / "ours",
        build_model(loaded, dtype=dtype).state_dict(),
        loaded.config,
        tokenizer=loaded.tokenizer,
        generation=loaded.generation,
    )

    back, report = transformers.WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "ours", dtype="auto", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = theirs.state_dict()
    assert back.state_dict().keys() == expected.keys()
    for name, tensor in back.state_dict().items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, expected[name]), name
    again = load_checkpoint(tmp_path / "ours")
    assert again.config == loaded.config
    assert again.generation == loaded.generation
    assert all(torch.equal(again.state[name], loaded.state[name]) for name in loaded.state)


def test_transformers_reads_the_tokenizer_that_we_save(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path, 2000)
    path.write_text(load_tokenizer(path).to_json(), encoding="utf-8")
    ours = load_tokenizer(path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    for text in ("hello world", " ümläut 日本 \U0001f600", "a1 a22"):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)


def test_a_head_of_its_own_is_used_as_transformers_uses_it(tmp_path: Path) -> None:
    shape = Shape("untied", 80, 120, 64, 4, 2, 4, 2, 2100)
    config = _their_model(shape).config
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    theirs = transformers.WhisperForConditionalGeneration(config).eval()
    assert not torch.equal(theirs.proj_out.weight, theirs.model.decoder.embed_tokens.weight)
    ours = _our_model(theirs, shape, tmp_path)
    mel, tokens = LogMelSpectrogram(80)(waveforms(shape)), torch.tensor(_prompts(shape))
    expected = theirs(input_features=mel, decoder_input_ids=tokens).logits
    assert largest(ours(mel, tokens) - expected) < LOGITS_TOLERANCE
    head = ours.decoder.head
    assert head is not None
    assert torch.equal(head, theirs.proj_out.weight)
