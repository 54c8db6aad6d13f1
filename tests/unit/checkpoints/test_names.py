from __future__ import annotations

import torch

from service.checkpoints.names import Naming, parameter_names, parameter_shapes
from service.checkpoints.state import parts_of
from service.model import WhisperConfig, WhisperModel


def test_the_table_names_every_parameter_of_the_model_once(config: WhisperConfig) -> None:
    ours = [names.ours for names in parameter_names(config)]
    assert len(ours) == len(set(ours))
    assert set(ours) == set(parameter_shapes(config))


def test_no_two_parameters_share_a_source(config: WhisperConfig) -> None:
    for naming in Naming:
        sources = [s for n in parameter_names(config) for s in n.sources(naming) if s is not None]
        assert len(sources) == len(set(sources))


def test_only_the_biases_of_keys_have_no_source(config: WhisperConfig) -> None:
    for names in parameter_names(config):
        absent = [place for place, source in enumerate(names.hf) if source is None]
        assert [place for place, source in enumerate(names.openai) if source is None] == absent
        if names.ours.endswith("attn.qkv.bias"):
            assert absent == [1]
        elif names.ours.endswith("key_value.bias"):
            assert absent == [0]
        else:
            assert absent == []


def test_a_fused_parameter_splits_into_query_key_value(
    config: WhisperConfig, model: WhisperModel
) -> None:
    parts = dict(parts_of(model.state_dict(), config, Naming.OPENAI))
    at = "decoder.blocks.0.attn."
    joined = torch.cat([parts[f"{at}{part}.weight"] for part in ("query", "key", "value")])
    assert torch.equal(joined, model.state_dict()[f"{at}qkv.weight"])
