from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audio.vad import Span, SpeechMap, SpeechModel, SpeechModels
from service.transcription.chunks import ChunkCutter, Clip
from tests.unit.audio.test_vad import Loud, Waveform, loud_at


def cut(
    waveform: Waveform, clips: Sequence[Clip] | None = None, max_frames: int = 3000
) -> list[Clip]:
    return cut_by(Loud(), waveform, clips, max_frames)


def cut_by(
    model: SpeechModel,
    waveform: Waveform,
    clips: Sequence[Clip] | None = None,
    max_frames: int = 3000,
) -> list[Clip]:
    """Return the chunks of a recording by a model of speech."""
    speech = SpeechMap(SpeechModels(lambda: model), waveform)

    async def spans(start_s: float, end_s: float) -> list[Span]:
        return speech.spans(start_s, end_s)

    async def quietest(start_s: float, end_s: float) -> float:
        return speech.quietest(start_s, end_s)

    async def all_of_them() -> list[Clip]:
        cutter = ChunkCutter(clips or [(0, len(waveform) // 160)], max_frames, spans, quietest)
        chunks = []
        while (chunk := await cutter.next()) is not None:
            chunks.append(chunk)
        return chunks

    return asyncio.run(all_of_them())


def close_to(chunks: list[Clip], seconds: list[Span]) -> bool:
    return np.shape(chunks) == np.shape(seconds) and np.allclose(
        np.array(chunks) / 100, seconds, atol=0.15
    )


def test_a_short_recording_is_one_chunk_without_the_silence_around_it() -> None:
    assert close_to(cut(loud_at(20, (5, 12))), [(4.7, 12.6)])


def test_chunks_are_cut_in_pauses_and_as_long_as_they_may_be() -> None:
    waveform = loud_at(70, (0, 10), (11, 24), (25, 40), (42, 69))
    assert close_to(cut(waveform), [(0, 24.5), (24.7, 40.6), (41.7, 69.6)])


def test_silence_belongs_to_no_chunk() -> None:
    waveform = loud_at(200, (40, 41), (150, 152))
    assert close_to(cut(waveform), [(39.7, 41.6), (149.7, 152.6)])
    assert cut(np.zeros(3600 * 16, np.float32)) == []


def test_speech_without_a_pause_is_cut_all_the_same_and_loses_nothing() -> None:
    chunks = cut(loud_at(100, (0, 100)))
    assert chunks[0][0] == 0
    assert chunks[-1][1] == 10_000
    assert [start for start, _ in chunks[1:]] == [end for _, end in chunks[:-1]]
    assert all(1500 <= end - start <= 3000 for start, end in chunks[:-1])


def test_chunks_lie_in_clips() -> None:
    waveform = loud_at(60, (0, 60))
    assert cut(waveform, [(100, 300), (500, 700)]) == [(100, 300), (500, 700)]


spoken = st.lists(st.tuples(st.floats(0.2, 40), st.floats(0.2, 20)), min_size=1, max_size=5)


@settings(max_examples=12)
@given(lengths=spoken, max_s=st.sampled_from([2, 7, 30]))
def test_chunks_follow_one_another_are_short_enough_and_hold_all_speech(
    lengths: list[tuple[float, float]], max_s: int
) -> None:
    spans, at = [], 0.0
    for pause_s, speech_s in lengths:
        spans.append((at + pause_s, at + pause_s + speech_s))
        at += pause_s + speech_s
    waveform = loud_at(at + 1, *spans)
    chunks = cut(waveform, max_frames=100 * max_s)
    held = np.zeros(len(waveform) // 160 + 1, bool)
    before = 0
    for start, end in chunks:
        assert before <= start < end <= start + 100 * max_s
        held[start:end] = True
        before = end
    for start_s, end_s in spans:
        missing = ~held[round(start_s * 100) + 4 : round(end_s * 100) - 4]
        assert missing.sum() <= 12, (spans, chunks)  # a speech of 0.1 s may be taken for noise
