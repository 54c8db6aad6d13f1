"""The model's data flow over HTTP, as JSON and drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from xml.etree import ElementTree as ET

import httpx
import pytest

from service.checkpoints import load_checkpoint, save_hf_folder
from service.loading import model_flow
from service.model import WhisperConfig, WhisperModel
from service.text.tokenizer import WhisperTokenizer
from tests.api.live import Limits, LiveServer, Parts, assert_envelope, gate, services_of

ID = "some-org/flow"
"""A hub id, and one that ends as the path of a flow does."""


@pytest.fixture(scope="module")
def flowing(
    parts: Parts,
    make_tokenizer: Callable[..., WhisperTokenizer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveServer]:
    tokenizer = make_tokenizer()
    config = WhisperConfig(80, 50, 48, 3, 2, 64, tokenizer.n_vocab, 32, 4, 3, 80)
    folder = tmp_path_factory.mktemp("secret") / "a <b> & c"
    state = WhisperModel(config).requires_grad_(False).state_dict()
    save_hf_folder(folder, state, config, tokenizer=tokenizer)
    drawn = dataclasses.replace(parts, flow=model_flow(load_checkpoint(folder)))
    with LiveServer(services_of(drawn, Limits(api={"model_id": ID}))) as server:
        yield server


def _flow(server: LiveServer, accept: str | None = None, name: str = ID) -> httpx.Response:
    headers = {} if accept is None else {"accept": accept}
    return server.client.get(f"/v1/models/{name}/flow", headers=headers)


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/html,*/*;q=0.8", "?;q="])
def test_machines_get_json(flowing: LiveServer, accept: str | None) -> None:
    response = _flow(flowing, accept)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"
    report = response.json()
    assert report["file"] == "a <b> & c"
    assert (report["encoder_layers"], report["decoder_layers"]) == (2, 3)
    components = [box["component"] for box in report["flow"]]
    assert components == ["input", "mel", "encoder", "encoder_output", "decoder", "output"]
    assert "secret" not in response.text  # the path of the file is nobody's business


@pytest.mark.parametrize("accept", ["image/svg+xml", "image/avif,image/webp,image/*,*/*;q=0.8"])
def test_people_get_a_drawing(flowing: LiveServer, accept: str) -> None:
    response = _flow(flowing, accept)
    assert response.headers["content-type"] == "image/svg+xml"
    root = ET.fromstring(response.text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("a <b> & c" in text for text in texts)
    for row in ("ENCODER", "Encoder Layers x 2", "DECODER", "Decoder Layers x 3"):
        assert row in texts
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_a_terminal_gets_the_drawing_of_the_command(flowing: LiveServer) -> None:
    response = _flow(flowing, "text/plain")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text.startswith("Model: a <b> & c (encoder-decoder (Whisper/T5), safetensors)")
    assert "│ ENCODER" in response.text


def test_an_id_may_hold_a_slash_and_end_in_flow(flowing: LiveServer) -> None:
    assert _flow(flowing, name="some-org%2Fflow").json() == _flow(flowing).json()
    assert _flow(flowing, name="whisper-1").json() == _flow(flowing).json()
    assert flowing.client.get(f"/v1/models/{ID}").json()["id"] == ID
    for name in ("some-org/other", "other"):
        assert assert_envelope(_flow(flowing, name=name), 404)["code"] == "model_not_found"


def test_the_flow_of_a_model_that_is_being_loaded_is_not_there_yet(parts: Parts) -> None:
    opened, wait = gate()
    with LiveServer(services_of(parts, Limits(), wait), ready=False) as server:
        error = assert_envelope(_flow(server, name="whisper-1"), 503)
        assert error["code"] == "starting"
        opened.set()


def test_a_model_without_a_file_has_no_flow(live: LiveServer) -> None:
    assert assert_envelope(_flow(live, name="whisper-1"), 404)["code"] == "model_not_found"
