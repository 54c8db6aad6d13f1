"""Cuts digits out of sentences and strings, where the model in training finds them.

Only a few people read digits for the corpora, but many said "one" or "three" within a sentence.
A forced alignment of the CTC head's phonemes tells where; the pieces become words to be joined.

python -m training.align --cache CACHE --folder RUN      writes CACHE/cuts.{i16,jsonl}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import track

from training.corpora import DIGITS
from training.material import Item, load_material
from training.network import Trainee, builtin_config
from training.phonemes import Lexicon
from training.spectrogram import Spectrogram, window_frames
from training.store import SAMPLE_RATE, Entry, write_store
from training.synthesis import speech_level, trim

SECONDS_PER_POSITION = 0.02
LEAD_S, TAIL_S = 0.22, 0.28
"""How far a word may reach before its first and after its last sound."""
WORST_SCORE = -1.5
SHORTEST_S, LONGEST_S = 0.12, 1.0


def force(log_p: NDArray[np.float32], sounds: list[int]) -> tuple[list[int], list[float]]:
    """Return where each sound is most probable on the best CTC path, and its log-probability.

    Shapes: log_p f32[t sounds]; sounds are ids without blanks.
    Raises: ValueError if there are fewer positions than the sounds need.
    """
    states = np.zeros(2 * len(sounds) + 1, dtype=np.int64)
    states[1::2] = sounds
    skips = np.zeros(len(states), dtype=bool)
    skips[3::2] = states[3::2] != states[1:-2:2]
    if len(log_p) < len(sounds) + int((~skips[3::2]).sum()):
        raise ValueError(f"{len(sounds)} sounds do not fit {len(log_p)} positions")
    score = np.full(len(states), -np.inf)
    score[:2] = log_p[0, states[:2]]
    came_from = np.zeros((len(log_p), len(states)), dtype=np.int8)
    for t in range(1, len(log_p)):
        one = np.concatenate([[-np.inf], score[:-1]])
        two = np.where(skips, np.concatenate([[-np.inf, -np.inf], score[:-2]]), -np.inf)
        options = np.stack([score, one, two])
        came_from[t] = options.argmax(axis=0)
        score = options.max(axis=0) + log_p[t, states]
    state = len(states) - 1 if score[-1] > score[-2] else len(states) - 2
    best = [(0, -np.inf)] * len(sounds)
    for t in range(len(log_p) - 1, -1, -1):
        if state % 2:
            here = float(log_p[t, states[state]])
            best[state // 2] = max(best[state // 2], (t, here), key=lambda found: found[1])
        state -= int(came_from[t, state])
    return [t for t, _ in best], [value for _, value in best]


def word_spans(
    words: list[tuple[str, int]], at: list[int], scores: list[float]
) -> Iterator[tuple[str, float, float]]:
    """Yield words with their start and end in seconds, if their sounds are credible.

    Args:
        words: each with the number of its sounds.
        at: the position of each sound.
        scores: the log-probability of each sound.
    """
    position = 0
    for word, count in words:
        first, last = position, position + count - 1
        position += count
        if not count:
            continue
        if float(np.mean(scores[first : last + 1])) < WORST_SCORE:
            continue
        start_s, end_s = at[first] * SECONDS_PER_POSITION, at[last] * SECONDS_PER_POSITION
        before_s = at[first - 1] * SECONDS_PER_POSITION if first else start_s - 2 * LEAD_S
        following = last + 1
        after_s = (
            at[following] * SECONDS_PER_POSITION if following < len(at) else end_s + 2 * TAIL_S
        )
        yield (
            word,
            max((before_s + start_s) / 2, start_s - LEAD_S, 0.0),
            min((end_s + after_s) / 2, end_s + TAIL_S),
        )


@torch.inference_mode()
def cuts(
    model: Trainee, lexicon: Lexicon, items: list[Item]
) -> Iterator[tuple[NDArray[np.int16], Entry]]:
    """Yield every digit word that is found."""
    spectrogram = Spectrogram()
    for item in track(items, "aligning"):
        sound = item.store.samples(item.entry)
        mel = spectrogram([sound], window_frames(sound), None)
        log_p = model.spell(model.whisper.encoder(mel))[0].numpy()
        try:
            at, scores = force(log_p, lexicon.text(item.entry.text))
        except ValueError:
            continue
        words = [(word, len(lexicon.word(word))) for word in item.words]
        level = speech_level((sound * 32767).astype(np.int16))
        for word, start_s, end_s in word_spans(words, at, scores):
            piece = sound[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)]
            if word not in DIGITS or not len(piece):
                continue
            samples = trim((piece * 32767).astype(np.int16), 0.04, level)
            if SHORTEST_S < len(samples) / SAMPLE_RATE < LONGEST_S:
                yield samples, Entry(0, 0, word, item.entry.speaker, "cuts", "train")


def main(
    cache: Annotated[Path, typer.Option(help="Folder with prepared audio.")],
    folder: Annotated[Path, typer.Option(help="Folder with the run's checkpoint.")],
) -> None:
    """Align the training speakers' clips that have digits in them."""
    torch.set_num_threads(1)
    material = load_material(cache, "train")
    items = [i for by in material.strings["speechocean762"].values() for i in by]
    for source in ("speechocean762", "ljspeech"):
        items += [i for i in material.sentences[source] if set(i.words) & set(DIGITS)]
    model = Trainee(builtin_config()).eval()
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["average"])
    print(write_store(cache / "cuts", cuts(model, Lexicon(cache / "lexicon.json"), items)), "cuts")


if __name__ == "__main__":
    typer.run(main)
