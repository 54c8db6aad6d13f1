from __future__ import annotations

import pytest

from service.errors import InvalidRequest
from service.text.tokenizer import WhisperTokenizer
from service.transcription.checks import check as check_for
from service.transcription.params import ModelFacts, TranscriptionParams
from service.transcription.prompts import PreviousText, SequencePlan


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


def check(params: TranscriptionParams, tokenizer: WhisperTokenizer) -> TranscriptionParams:
    return check_for(params, tokenizer, facts(tokenizer))


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


def previous(tokenizer: WhisperTokenizer, **options: object) -> PreviousText:
    params = check(TranscriptionParams(**options), tokenizer)  # type: ignore[arg-type]
    return PreviousText(params, tokenizer, facts(tokenizer))


def text(tokenizer: WhisperTokenizer, said: PreviousText) -> str:
    return tokenizer.decode(said.tokens())


def test_the_initial_prompt_is_the_text_before_the_first_window(
    multilingual: WhisperTokenizer,
) -> None:
    said = previous(multilingual, initial_prompt=" Smith ")
    assert text(multilingual, said) == " Smith"
    said.add(multilingual.encode(" hi"), temperature=0.0)
    assert text(multilingual, said) == " Smith hi"


def test_without_conditioning_the_first_window_alone_is_told_the_prompt(
    multilingual: WhisperTokenizer,
) -> None:
    said = previous(multilingual, initial_prompt="Smith", condition_on_previous_text=False)
    assert text(multilingual, said) == " Smith"
    said.add(multilingual.encode(" hi"), temperature=0.0)
    assert said.tokens() == ()


def test_a_high_temperature_makes_the_text_before_it_forgotten(
    multilingual: WhisperTokenizer,
) -> None:
    said = previous(multilingual)
    said.add(multilingual.encode(" one"), temperature=0.5)
    assert text(multilingual, said) == " one"
    said.add(multilingual.encode(" two"), temperature=0.6)
    assert said.tokens() == ()
    said.add(multilingual.encode(" three"), temperature=0.0)
    assert text(multilingual, said) == " three"


def test_a_carried_prompt_and_hot_words_stand_before_every_window(
    multilingual: WhisperTokenizer,
) -> None:
    said = previous(
        multilingual, initial_prompt="Smith", carry_initial_prompt=True, hotwords=" Earshot "
    )
    assert text(multilingual, said) == " Earshot Smith"
    said.add(multilingual.encode(" hi"), temperature=1.0)
    assert text(multilingual, said) == " Earshot Smith"
    said.add(multilingual.encode(" ho"), temperature=0.0)
    assert text(multilingual, said) == " Earshot Smith ho"


@pytest.mark.parametrize(
    "options",
    [
        {"initial_prompt": "x" * 1000 + "end"},
        {"initial_prompt": "x" * 1000 + "end", "carry_initial_prompt": True},
        {"hotwords": "y" * 30, "initial_prompt": "x" * 1000 + "end", "carry_initial_prompt": True},
        {"hotwords": "y" * 1000, "initial_prompt": "x" * 1000 + "end"},
    ],
)
def test_prompts_longer_than_half_the_decoder_are_cut_and_leave_room(
    multilingual: WhisperTokenizer, options: dict[str, object]
) -> None:
    said = previous(multilingual, **options)
    said.add(multilingual.encode("z" * 300), temperature=1.0)
    for _ in range(2):
        tokens = said.tokens()
        assert len(tokens) <= 223
        plan = SequencePlan(TranscriptionParams(), multilingual, facts(multilingual))
        how = plan.transcribe("en", 0, tokens)
        assert len(how.prompt) + how.max_tokens <= 448 + 1
        said.add(multilingual.encode("z" * 300), temperature=0.0)
    if "hotwords" not in options and "carry_initial_prompt" in options:
        assert text(multilingual, said).endswith("xend")


def test_a_long_initial_prompt_keeps_its_end(multilingual: WhisperTokenizer) -> None:
    assert text(multilingual, previous(multilingual, initial_prompt="x" * 1000 + "end")) == (
        "x" * 220 + "end"
    )


def test_what_was_said_stands_before_the_start_of_transcript(
    multilingual: WhisperTokenizer,
) -> None:
    plan = SequencePlan(TranscriptionParams(), multilingual, facts(multilingual))
    plain, told = plan.transcribe("en", 1), plan.transcribe("en", 1, (5, 6))
    assert told.prompt == (multilingual.sot_prev, 5, 6, *plain.prompt)
    assert told.prompt[told.sot_index] == multilingual.sot


def test_special_tokens_in_an_initial_prompt_stay_text(multilingual: WhisperTokenizer) -> None:
    assert multilingual.eot not in previous(multilingual, initial_prompt="<|endoftext|>").tokens()


def test_each_window_and_attempt_has_noise_of_its_own(multilingual: WhisperTokenizer) -> None:
    plan = SequencePlan(TranscriptionParams(seed=5), multilingual, facts(multilingual))
    keys = [
        plan.transcribe("en", window, temperature=0.8, attempt=attempt).noise
        for window in range(2)
        for attempt in range(2)
    ]
    assert [(key.seed, key.window, key.attempt) for key in keys] == [
        (5, 0, 0), (5, 0, 1), (5, 1, 0), (5, 1, 1),
    ]  # fmt: skip


def test_beams_search_at_temperature_0_and_candidates_are_sampled_above(
    multilingual: WhisperTokenizer,
) -> None:
    params = TranscriptionParams(beam_size=5, patience=2.0, best_of=3, length_penalty=0.5)
    plan = SequencePlan(check(params, multilingual), multilingual, facts(multilingual))
    cold, warm = (plan.transcribe("en", 0, temperature=t) for t in (0.0, 0.2))
    assert (cold.beam_size, cold.patience, cold.best_of) == (5, 2.0, None)
    assert (warm.beam_size, warm.patience, warm.best_of) == (None, None, 3)
    assert cold.length_penalty == warm.length_penalty == 0.5


def test_the_last_token_needs_no_place_in_the_decoder(multilingual: WhisperTokenizer) -> None:
    plan = SequencePlan(TranscriptionParams(), multilingual, facts(multilingual))
    how = plan.transcribe("en", 0, (5,) * 223)
    assert len(how.prompt) == 227
    assert how.max_tokens == 222
