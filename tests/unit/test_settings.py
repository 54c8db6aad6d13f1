"""Settings: read from the environment, checked, never silently wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings, unknown_variables, variable


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)


def test_defaults_listen_on_this_machine_only() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.model) == ("127.0.0.1", 8000, "builtin")


def test_environment_overrides_defaults_and_arguments_override_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EARSHOT_PORT", "9000")
    monkeypatch.setenv("EARSHOT_MAX_UPLOAD_BYTES", "1000")
    settings = Settings(port=9001)
    assert (settings.port, settings.max_upload_bytes) == (9001, 1000)


def test_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_DEVICE", "")
    assert Settings().device == "auto"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", "65536"),
        ("port", "eighty"),
        ("device", "gpu"),
        ("dtype", "int8"),
        ("max_requests", "0"),
        ("drain_timeout_s", "-1"),
        ("drain_timeout_s", "inf"),
        ("drain_timeout_s", "nan"),
        ("window_slots", "-1"),
        ("log_format", "xml"),
    ],
)
def test_value_out_of_range_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    monkeypatch.setenv(variable(field), value)
    with pytest.raises(ValidationError, match=field):
        Settings()


def test_keys_come_from_a_variable_and_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("# the mobile app\nsecond\n\n  third \n", encoding="utf-8")
    monkeypatch.setenv("EARSHOT_API_KEYS", "zeroth, first")
    monkeypatch.setenv("EARSHOT_API_KEYS_FILE", str(file))
    settings = Settings()
    assert settings.all_api_keys == ("zeroth", "first", "second", "third")
    assert "zeroth" not in repr(settings)
    monkeypatch.delenv("EARSHOT_API_KEYS")
    monkeypatch.delenv("EARSHOT_API_KEYS_FILE")
    assert Settings().all_api_keys == ()


@pytest.mark.parametrize("keys", [",", "a b", "schlüssel"])
def test_keys_that_nobody_could_send_are_refused(
    monkeypatch: pytest.MonkeyPatch, keys: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("EARSHOT_API_KEYS", keys)
    with pytest.raises(ValidationError, match="api_keys"):
        Settings()
    monkeypatch.delenv("EARSHOT_API_KEYS")
    file = tmp_path / "keys"
    file.write_text(keys.strip(","), encoding="utf-8")
    monkeypatch.setenv("EARSHOT_API_KEYS_FILE", str(file))
    with pytest.raises(ValidationError, match="api_keys_file"):
        Settings()


def test_a_file_of_keys_has_to_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EARSHOT_API_KEYS_FILE", str(tmp_path / "none"))
    with pytest.raises(ValidationError, match="cannot be read: No such file"):
        Settings()


def test_origins_are_schemes_and_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_CORS_ORIGINS", "https://a.org, http://localhost:3000")
    assert Settings().all_cors_origins == ("https://a.org", "http://localhost:3000")
    monkeypatch.setenv("EARSHOT_CORS_ORIGINS", "a.org")
    with pytest.raises(ValidationError, match="is no origin"):
        Settings()


def test_service_link_of_kubernetes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_PORT", "tcp://10.0.0.7:8000")
    with pytest.raises(ValidationError, match="enableServiceLinks"):
        Settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


def test_misspelt_variable_is_named_with_the_likely_one() -> None:
    assert unknown_variables(["EARSHOT_DEVCE", "EARSHOT_DEVICE", "PATH"]) == [
        "EARSHOT_DEVCE is not a setting (is EARSHOT_DEVICE meant?)"
    ]


def test_variables_of_a_kubernetes_service_are_not_reported() -> None:
    assert not unknown_variables(["EARSHOT_SERVICE_HOST", "EARSHOT_PORT_8000_TCP_ADDR"])


def test_every_limit_has_its_unit_in_its_name() -> None:
    units = ("_s", "_bytes", "_seconds", "_requests", "_channels")
    for field in Settings.model_fields:
        if field.startswith("max_") or field.endswith("timeout"):
            assert field.endswith(units), field


def test_documentation_lists_every_setting_with_its_default(repository: Path) -> None:
    page = (repository / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `EARSHOT_.*$", page, flags=re.MULTILINE)
    expected = [
        f"| `{variable(name)}` | {_shown(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    assert rows == expected, "the table in docs/api.md should be:\n" + "\n".join(expected)


def _shown(default: object) -> str:
    return "" if default is None else f"`{default}`"


def test_a_file_may_not_be_longer_than_what_all_may_hold() -> None:
    for given in (
        {"max_audio_seconds": 100, "max_queued_audio_seconds": 60},
        {"max_queued_audio_seconds": 60},
    ):
        with pytest.raises(ValidationError, match="more than max_queued_audio_seconds, 60"):
            Settings.model_validate(given)
