from __future__ import annotations

from collections.abc import Callable

import pytest

from service.errors import InvalidRequest
from service.text.tokenizer import WhisperTokenizer
from service.transcription.params import (
    ModelFacts,
    SequencePlan,
    TranscriptionParams,
    check,
    detect_language,
)


@pytest.fixture(scope="module")
def multilingual(make_tokenizer: Callable[..., WhisperTokenizer]) -> WhisperTokenizer:
    return make_tokenizer()


@pytest.fixture(scope="module")
def english(make_tokenizer: Callable[..., WhisperTokenizer]) -> WhisperTokenizer:
    return make_tokenizer(languages=())


def facts(tokenizer: WhisperTokenizer) -> ModelFacts:
    return ModelFacts(
        name="test",
        n_vocab=tokenizer.n_vocab,
        n_text_ctx=448,
        max_frames=3000,
        suppress_tokens=(1, 2),
        begin_suppress_tokens=(tokenizer.eot,),
        max_initial_timestamp_index=50,
    )


@pytest.mark.parametrize("language", ["de", "DE", "German", " german "])
def test_a_language_may_be_given_in_several_ways(
    multilingual: WhisperTokenizer, language: str
) -> None:
    assert check(TranscriptionParams(language=language), multilingual).language == "de"


def test_no_language_stays_open_on_a_multilingual_model(multilingual: WhisperTokenizer) -> None:
    assert check(TranscriptionParams(), multilingual).language is None


def test_no_language_is_english_on_an_english_model(english: WhisperTokenizer) -> None:
    assert check(TranscriptionParams(), english).language == "en"


@pytest.mark.parametrize(
    ("params", "param", "part"),
    [
        (TranscriptionParams(language="klingon"), "language", "klingon"),
        (TranscriptionParams(language=""), "language", "possible are: en, zh"),
        (TranscriptionParams(language="fr"), "language", "it has: en, de, ja"),
        (TranscriptionParams(task="sing"), "task", "transcribe, translate"),
    ],
)
def test_what_a_multilingual_model_cannot_do_is_named(
    multilingual: WhisperTokenizer, params: TranscriptionParams, param: str, part: str
) -> None:
    with pytest.raises(InvalidRequest, match=part) as caught:
        check(params, multilingual)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("params", "param"),
    [
        (TranscriptionParams(language="de"), "language"),
        (TranscriptionParams(task="translate"), "task"),
    ],
)
def test_an_english_model_refuses_other_languages_and_translation(
    english: WhisperTokenizer, params: TranscriptionParams, param: str
) -> None:
    with pytest.raises(InvalidRequest, match="English only") as caught:
        check(params, english)
    assert caught.value.param == param


def test_the_prompt_names_language_and_task(multilingual: WhisperTokenizer) -> None:
    plan = SequencePlan(TranscriptionParams(task="translate"), multilingual, facts(multilingual))
    how = plan.transcribe("ja", window=0)
    tokens = multilingual
    assert how.prompt == (tokens.sot, tokens.languages["ja"], tokens.translate)
    assert (how.sot_index, how.max_tokens, how.timestamps) == (0, 224, True)
    assert how.suppress_blank
    assert (how.suppress_tokens, how.max_initial_timestamp_index) == ((1, 2), 50)


def test_without_timestamps_is_in_the_prompt(english: WhisperTokenizer) -> None:
    params = TranscriptionParams(without_timestamps=True)
    how = SequencePlan(params, english, facts(english)).transcribe("en", window=0)
    assert how.prompt == (english.sot, english.no_timestamps)
    assert not how.timestamps


def test_the_initial_prompt_stands_before_the_first_window_only(
    multilingual: WhisperTokenizer,
) -> None:
    params = TranscriptionParams(initial_prompt=" Smith ")
    plan = SequencePlan(params, multilingual, facts(multilingual))
    first, second = plan.transcribe("en", window=0), plan.transcribe("en", window=1)
    previous = (multilingual.sot_prev, *multilingual.encode(" Smith"))
    assert first.prompt == previous + second.prompt
    assert first.prompt[first.sot_index] == multilingual.sot


def test_a_long_initial_prompt_keeps_its_end_and_leaves_room(
    multilingual: WhisperTokenizer,
) -> None:
    params = TranscriptionParams(initial_prompt="x" * 1000 + "end")
    how = SequencePlan(params, multilingual, facts(multilingual)).transcribe("en", window=0)
    assert how.sot_index == 224
    assert multilingual.decode(how.prompt[: how.sot_index]).endswith("xend")
    assert len(how.prompt) + how.max_tokens <= 448


def test_special_tokens_in_an_initial_prompt_stay_text(multilingual: WhisperTokenizer) -> None:
    params = TranscriptionParams(initial_prompt="<|endoftext|>")
    how = SequencePlan(params, multilingual, facts(multilingual)).transcribe("en", window=0)
    assert multilingual.eot not in how.prompt


def test_each_window_has_noise_of_its_own(multilingual: WhisperTokenizer) -> None:
    params = TranscriptionParams(temperature=0.8, seed=5)
    plan = SequencePlan(params, multilingual, facts(multilingual))
    keys = [plan.transcribe("en", window).noise for window in range(3)]
    assert [(key.seed, key.window) for key in keys] == [(5, 0), (5, 1), (5, 2)]


def test_detection_leaves_only_languages(multilingual: WhisperTokenizer) -> None:
    how = detect_language(multilingual, facts(multilingual))
    left = set(range(multilingual.n_vocab)) - set(how.suppress_tokens)
    assert left == set(multilingual.languages.values())
    assert (how.prompt, how.max_tokens) == ((multilingual.sot,), 1)
