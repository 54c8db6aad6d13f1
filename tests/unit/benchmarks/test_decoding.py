"""The comparison of decoders counts what was decoded, and notices who decodes something else."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from benchmarks import decoders, decoding
from benchmarks.decoders import LiveBatch, open_peer
from benchmarks.decoding_loads import Decoded, Load, batches, check, in_order
from benchmarks.peers.checkpoint import EOT, spoken, write
from service.model import WhisperConfig

SMALL = WhisperConfig(
    n_mels=80, n_audio_ctx=1500, d_model=64, n_audio_head=2, n_audio_layer=1, n_audio_ffn=64,
    n_vocab=51_865, n_text_ctx=64, n_text_head=2, n_text_layer=1, n_text_ffn=64,
)  # fmt: skip
N_WINDOWS = 5
WORDS = spoken(7)
TIMESTAMP = 50_364


def decoded(load: Load) -> Decoded:
    n_texts = N_WINDOWS + sum(load.fails(n) for n in range(N_WINDOWS))
    return Decoded(2.0, [[TIMESTAMP + n, *WORDS] for n in range(n_texts)])


def test_every_window_is_in_the_batches_of_a_load_once_and_again_if_it_fails() -> None:
    assert batches(Load.GREEDY, 3) == [("greedy", [0, 1, 2])]
    assert batches(Load.BEAMS, 6) == [("greedy", [1, 2, 3, 5]), ("beams", [0, 4])]
    assert batches(Load.FALLBACK, 4) == [("greedy", [0, 1, 2, 3]), ("sampled", [0, 3])]


def test_texts_are_told_by_window_and_those_decoded_again_after_them() -> None:
    texts = {("sampled", 0): [4], ("beams", 1): [2], ("greedy", 2): [3], ("greedy", 0): [1]}
    assert in_order(texts) == [[1], [2], [3], [4]]


@pytest.mark.parametrize("load", Load)
def test_text_tokens_are_counted_of_every_attempt(load: Load) -> None:
    n_texts = 7 if load is Load.FALLBACK else 5
    assert check(decoded(load), load, N_WINDOWS, WORDS, EOT) == n_texts * len(WORDS)


@pytest.mark.parametrize("texts", [[WORDS] * 4, [WORDS] * 4 + [WORDS[:-1]], [[*WORDS, 9]] * 5])
def test_who_decodes_less_or_something_else_is_found_out(texts: list[list[int]]) -> None:
    with pytest.raises(AssertionError, match="instead of"):
        check(Decoded(1.0, texts), Load.GREEDY, N_WINDOWS, WORDS, EOT)


def test_live_batch_says_the_models_text_under_every_load(tmp_path: Path) -> None:
    write(tmp_path, SMALL, len(WORDS))
    ours = LiveBatch(tmp_path / "hf", N_WINDOWS)
    assert ours.encoded.shape == (N_WINDOWS, 1500, 64)
    for load in (*Load, *Load):
        found = ours.decode(load)
        check(found, load, N_WINDOWS, WORDS, EOT)
        assert all(text[0] >= TIMESTAMP for text in found.texts)


@dataclass
class Fake:
    """A decoder that takes two seconds for everything."""

    version: str = "fake"
    shift: int = 0

    def decode(self, load: Load) -> Decoded:
        found = decoded(load)
        return replace(found, texts=[[text[0] + self.shift, *text[1:]] for text in found.texts])


def test_speed_is_tokens_a_second_and_the_first_round_is_not_kept() -> None:
    speeds = decoding.measured({"a": Fake(), "b": Fake()}, N_WINDOWS, WORDS, 2)
    assert speeds["b"] == {
        Load.GREEDY: [17.5, 17.5], Load.BEAMS: [17.5, 17.5], Load.FALLBACK: [24.5, 24.5],
    }  # fmt: skip


def test_other_timestamps_in_greedy_decoding_are_noticed() -> None:
    with pytest.raises(AssertionError, match="b differs"):
        decoding.measured({"a": Fake(), "b": Fake(shift=1)}, N_WINDOWS, WORDS, 1)


def test_peer_is_a_process_that_answers_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "peer.py"
    answer = json.dumps(asdict(decoded(Load.GREEDY)))
    script.write_text(
        f"import sys\nprint('a peer 1.0', flush=True)\nassert input() == 'greedy'\n"
        f"print({answer!r}, flush=True)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(decoders, "PEER", script)
    with open_peer(Path(sys.executable), tmp_path, "a") as peer:
        assert peer.version == "a peer 1.0"
        assert peer.decode(Load.GREEDY) == decoded(Load.GREEDY)


def test_peer_that_does_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "peer.py"
    script.write_text("", encoding="utf-8")
    monkeypatch.setattr(decoders, "PEER", script)
    with (
        pytest.raises(RuntimeError, match="has ended"),
        open_peer(Path(sys.executable), tmp_path, "a"),
    ):
        pass
