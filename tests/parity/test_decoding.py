"""openai-whisper's `decode()`, `detect_language()` and word times, by our engine.

The cases of a checkpoint - greedy ones, beams of several widths, prompts and prefixes - are decoded
all together, with 15 other requests in the same live batch from the first step to the last, and
then each alone. Recordings: `record_decoding.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from scipy import stats

from service.decoding.params import AlignParams, DetectParams, NoiseKey, SequenceParams
from service.decoding.words import Alignment, TimedSegment, align_words, time_segments
from service.engine.types import Answer, Finish, Task, TokenStep
from tests.parity.decoding_recipes import (
    DRAWN_TEMPERATURES,
    TALKATIVE,
    cases,
    drawn_options,
    recorded_decodings,
)
from tests.parity.live import N_OTHERS, Ours, Steps, load
from tests.parity.recipes import TIE_MARGIN
from tests.parity.tally import Tally

pytestmark = pytest.mark.timeout(900)

Requests: TypeAlias = dict[str, list[tuple[int, Task]]]

WORD_LANGUAGES = ("en", "zh")
"""In which the words of the windows are told apart."""
LAST_START = 4
"""Steps after which the last request of a batch has started, and some."""
SECONDS_TOLERANCE = 0.02 + 1e-6
N_DRAWS = 400
EXPECTED_AT_LEAST = 8.0
"""Tokens that are expected less often are counted together."""


@pytest.fixture(scope="module")
def recorded() -> Any:
    return recorded_decodings()


@pytest.fixture(scope="module", params=TALKATIVE, ids=lambda shape: shape.name)
def ours(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, recorded: Any
) -> Ours:
    shape = request.param
    folder = tmp_path_factory.mktemp(shape.name)
    return load(shape, folder, recorded[shape.name]["weights_sha256"])


@pytest.fixture(scope="module")
def requests(ours: Ours, recorded: Any) -> Requests:
    """What is asked: every case, a sampled window twice, languages, and words of every window."""
    own = recorded[ours.shape.name]
    cases_of = zip(cases(ours.shape), own["cases"], strict=True)
    plain = ours.params({"language": "en", "suppress_tokens": "", "sample_len": 40}, None, ())
    drawn = replace(plain, temperature=0.8, best_of=3)
    rows = range(ours.shape.rows)
    words = zip(rows, own["words"], WORD_LANGUAGES, strict=True)
    return {
        "cases": [
            (
                case.row,
                ours.params(case.options, one["max_initial_timestamp_index"], own["non_speech"]),
            )
            for case, one in cases_of
        ],
        "drawn": [(0, replace(drawn, noise=NoiseKey(seed))) for seed in (7, 8)],
        "languages": [(row, DetectParams()) for row in rows],
        "words": [(row, align_params(ours, one, language)) for row, one, language in words],
    }


def align_params(ours: Ours, reference: Any, language: str) -> AlignParams:
    prompt = ours.tokenizer.sot_sequence(language, "transcribe", timestamps=False)
    return AlignParams(prompt, tuple(reference["tokens"]), reference["n_frames"])


@pytest.fixture(scope="module")
def in_company(ours: Ours, requests: Requests) -> dict[str, list[Steps]]:
    """What all requests came to, in one batch with 15 others from the first step to the last."""
    tasks = [task for given in requests.values() for task in given]
    n_tokens = max(task.max_tokens for _, task in tasks if isinstance(task, SequenceParams))
    longer = n_tokens + LAST_START
    found = ours.run([*ours.others(longer), *tasks])
    lengths = {len(steps) for steps in found[:N_OTHERS]}
    assert lengths == {longer}, "another ended before what it is beside"
    steps = iter(found[N_OTHERS:])
    return {what: [next(steps) for _ in given] for what, given in requests.items()}


def assert_decoded(steps: Steps, reference: Any, tally: Tally) -> None:
    """Compare with the reference; only a tie of its own excuses a divergence."""
    tokens = [s for s in steps if isinstance(s, TokenStep)]
    assert all(step.error is None for step in tokens)
    found = [step.token_id for step in tokens if step.finish is not Finish.EOT]
    expected = reference["tokens"]
    tally.cases += 1
    if found != expected:
        same = [a == b for a, b in zip(found, expected, strict=False)]
        at = same.index(False) if False in same else len(same)
        is_beam = "beam" in reference["name"]
        narrow = [m for step, m in reference["narrow"].items() if is_beam or int(step) == at]
        assert narrow, f"{reference['name']}: differs at {at}: {found} for {expected}"
        assert min(narrow) < TIE_MARGIN
        tally.tokens += at
        tally.ties += 1
        return
    tally.tokens += len(found)
    average = sum(step.logprob for step in tokens) / (len(found) + 1)
    assert average == pytest.approx(reference["avg_logprob"], abs=1e-4)
    assert tokens[0].no_speech_prob == pytest.approx(reference["no_speech_prob"], abs=1e-5)


def test_openai_whisper_decoded_the_same_among_fifteen_others(
    ours: Ours, recorded: Any, in_company: dict[str, list[Steps]], decoding_tally: Tally
) -> None:
    references = recorded[ours.shape.name]["cases"]
    for steps, reference in zip(in_company["cases"], references, strict=True):
        assert_decoded(steps, reference, decoding_tally)
    decoding_tally.checkpoints += 1


def test_each_request_alone_comes_to_the_same_bits(
    ours: Ours, requests: Requests, in_company: dict[str, list[Steps]]
) -> None:
    for what, tasks in requests.items():
        for number, (task, steps) in enumerate(zip(tasks, in_company[what], strict=True)):
            assert ours.run([task]) == [steps], f"neighbours changed {what} {number}"
    first, second = in_company["drawn"]
    assert first != second, "the seed does not count"


def test_openai_whisper_told_languages_the_same(
    ours: Ours, recorded: Any, in_company: dict[str, list[Steps]]
) -> None:
    references = recorded[ours.shape.name]["languages"]
    for [answer], expected in zip(in_company["languages"], references, strict=True):
        assert isinstance(answer, Answer)
        assert isinstance(answer.result, dict)
        codes = {code: answer.result[token] for code, token in ours.tokenizer.languages.items()}
        assert codes == pytest.approx(expected, abs=1e-4)


def test_openai_whisper_placed_words_at_the_same_times(
    ours: Ours, recorded: Any, in_company: dict[str, list[Steps]]
) -> None:
    references = recorded[ours.shape.name]["words"]
    found = zip(in_company["words"], references, WORD_LANGUAGES, strict=True)
    for [answer], reference, language in found:
        assert isinstance(answer, Answer)
        assert isinstance(answer.result, Alignment)
        words = align_words(reference["tokens"], answer.result, ours.tokenizer, language)
        assert len(words) == len(reference["words"])
        for word, (text, tokens, start_s, end_s, probability) in zip(
            words, reference["words"], strict=True
        ):
            assert (word.text, list(word.tokens)) == (text, tokens)
            assert word.start_s == pytest.approx(start_s, abs=SECONDS_TOLERANCE)
            assert word.end_s == pytest.approx(end_s, abs=SECONDS_TOLERANCE)
            assert word.probability == pytest.approx(probability, abs=1e-4)
        assert_segments(words, reference)


def assert_segments(words: Any, reference: Any) -> None:
    tokens, half = reference["tokens"], len(reference["tokens"]) // 2
    parts = (tuple(tokens[:half]), tuple(tokens[half:]))
    given = [
        TimedSegment(start_s, end_s, part)
        for (start_s, end_s), part in zip(reference["given"], parts, strict=True)
    ]
    segments = time_segments(given, words, offset_s=7.0, last_speech_s=5.0)
    for segment, (start_s, end_s, own) in zip(segments, reference["segments"], strict=True):
        assert segment.start_s == pytest.approx(start_s, abs=SECONDS_TOLERANCE)
        assert segment.end_s == pytest.approx(end_s, abs=SECONDS_TOLERANCE)
        assert [word.text for word in segment.words] == [text for text, _, _ in own]
        for word, (_, word_start_s, word_end_s) in zip(segment.words, own, strict=True):
            assert word.start_s == pytest.approx(word_start_s, abs=SECONDS_TOLERANCE)
            assert word.end_s == pytest.approx(word_end_s, abs=SECONDS_TOLERANCE)


@pytest.mark.parametrize("ours", TALKATIVE[1:2], ids=lambda shape: shape.name, indirect=True)
def test_tokens_are_drawn_from_openai_whispers_distribution(ours: Ours, recorded: Any) -> None:
    """Chi-square of the second token over fixed seeds, in a live batch of 16.

    Under the right distribution a p under 0.001 comes once in a thousand; under that of the other
    temperature, what was drawn is out of the question.
    """
    drawn = recorded[ours.shape.name]["drawn"]
    plain = ours.params(drawn_options() | {"sample_len": 2}, 0, ())
    right, wrong = drawn["distributions"], drawn["distributions"][::-1]
    for number, temperature in enumerate(DRAWN_TEMPERATURES):
        tasks = [
            replace(plain, temperature=temperature, noise=NoiseKey(seed)) for seed in range(N_DRAWS)
        ]
        tokens = ours.draws(0, tasks)
        assert p_of(tokens, right[number]) > 1e-3
        assert p_of(tokens, wrong[number]) < 1e-6


def p_of(tokens: Sequence[int], reference: Any) -> float:
    """Return how likely it is to draw these, or less likely ones, from a distribution."""
    likely = [
        (token, probability * len(tokens))
        for token, probability in zip(reference["tokens"], reference["probabilities"], strict=True)
        if probability * len(tokens) >= EXPECTED_AT_LEAST
    ]
    found = [tokens.count(token) for token, _ in likely]
    expected = [count for _, count in likely]
    found.append(len(tokens) - sum(found))
    expected.append(len(tokens) - sum(expected))
    return float(stats.chisquare(found, expected).pvalue)


def test_every_way_of_decoding_was_recorded(recorded: Any) -> None:
    names = [case["name"].partition(",")[0] for one in recorded.values() for case in one["cases"]]
    assert len(TALKATIVE) >= 12
    assert set(recorded) == {shape.name for shape in TALKATIVE}
    assert len(set(names)) == 20
    assert all(names.count(name) >= 4 for name in names)
