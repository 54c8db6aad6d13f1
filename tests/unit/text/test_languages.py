from __future__ import annotations

from service.text import LANGUAGES, language_code
from service.text.languages import ALIASES


def test_whisper_knows_a_hundred_languages_of_which_cantonese_is_the_last() -> None:
    assert len(LANGUAGES) == 100
    assert next(iter(LANGUAGES)) == "en"
    assert list(LANGUAGES)[-1] == "yue"


def test_a_language_is_found_by_code_name_and_alias_in_any_case() -> None:
    assert language_code("DE") == "de"
    assert language_code(" German ") == "de"
    assert language_code("Haitian Creole") == "ht"
    assert language_code("castilian") == "es"
    assert language_code("klingon") is None


def test_every_alias_leads_to_a_language_and_hides_none() -> None:
    for alias, code in ALIASES.items():
        assert code in LANGUAGES
        assert alias not in LANGUAGES.values()
