"""What the decoder is taught to say."""

import random

import torch

from training.targets import (
    IGNORE,
    Spoken,
    collate,
    decoder_loss,
    group,
    segment_tokens,
    token_targets,
)
from training.vocabulary import (
    DIGIT_IDS,
    EOT,
    N_VOCAB,
    NO_SPEECH,
    NO_TIMESTAMPS,
    SOT,
    SOT_PREV,
    TIMESTAMP_BEGIN,
    WORD_IDS,
    build_tokenizer,
    timestamp,
)

SPOKEN = [
    Spoken(0.5, 0.9, ("zero",)),
    Spoken(1.0, 1.5, ("three",)),
    Spoken(3.0, 3.5, ("five",)),
]


def test_each_digit_is_one_token_with_its_space() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer.encode(" zero one two three four five six seven eight nine").ids
    assert tuple(ids) == DIGIT_IDS
    assert tokenizer.decode(ids) == " zero one two three four five six seven eight nine"


def test_timestamps_are_the_last_tokens() -> None:
    assert timestamp(0.0) == TIMESTAMP_BEGIN
    assert timestamp(30.0) == timestamp(99.0) == N_VOCAB - 1
    assert build_tokenizer().id_to_token(timestamp(1.24)) == "<|1.24|>"


def test_a_long_pause_ends_a_segment() -> None:
    assert [item.words for item in group(SPOKEN)] == [("zero", "three"), ("five",)]


def test_segments_stand_between_timestamps() -> None:
    assert segment_tokens(SPOKEN) == [
        timestamp(0.5), WORD_IDS["zero"], WORD_IDS["three"], timestamp(1.5),
        timestamp(3.0), WORD_IDS["five"], timestamp(3.5),
    ]  # fmt: skip


def test_labels_are_the_inputs_one_position_later() -> None:
    made = token_targets(SPOKEN, random.Random(1), timestamps=True)
    assert made.inputs[0] == SOT
    assert made.labels == [*made.inputs[1:], EOT]


def test_without_timestamps_only_words_follow() -> None:
    made = token_targets(SPOKEN, random.Random(1), timestamps=False)
    words = [WORD_IDS[word] for word in ("zero", "three", "five")]
    assert made.inputs == [SOT, NO_TIMESTAMPS, *words]
    assert made.labels == [timestamp(0.5), *words, EOT]


def test_audio_without_digits_ends_after_a_forced_timestamp() -> None:
    made = token_targets([], random.Random(1), timestamps=True)
    assert made.labels == [NO_SPEECH, EOT]
    assert made.inputs[1] >= TIMESTAMP_BEGIN


def test_the_prompt_is_read_but_not_learnt() -> None:
    made = token_targets(SPOKEN, random.Random(1), timestamps=True, prompt_tokens=9)
    assert made.inputs[0] == SOT_PREV
    assert made.inputs[9] == SOT
    assert made.labels[:9] == [IGNORE] * 9
    assert len(made.inputs) == len(made.labels)


def test_the_loss_is_small_only_for_what_was_wanted() -> None:
    inputs, labels = collate([token_targets(SPOKEN, random.Random(1), timestamps=True)])
    right = torch.zeros(*inputs.shape, N_VOCAB)
    right.scatter_(2, labels[..., None], 12.0)
    wrong = right.roll(1, dims=1)
    assert decoder_loss(right, labels) < 0.5 * decoder_loss(wrong, labels)
