"""A transcript to write in every format."""

from __future__ import annotations

from service.transcription.events import Done, SegmentEvent, Timings, Usage


def segment(number: int, start_s: float, end_s: float, text: str) -> SegmentEvent:
    return SegmentEvent(
        id=number,
        window=number,
        seek=100 * number,
        start_s=start_s,
        end_s=end_s,
        text=text,
        tokens=(50_364, 9, 50_464),
        temperature=0.2,
        avg_logprob=-0.25,
        compression_ratio=1.25,
        no_speech_prob=None if number else 0.125,
    )


def done(*segments: SegmentEvent, language: str | None = "de") -> Done:
    return Done(
        id="an-id",
        model="a-model",
        text="".join(segment.text for segment in segments).strip(),
        language=language,
        duration_s=3725.5,
        segments=segments,
        usage=Usage(audio_tokens=10, prompt_tokens=4, output_tokens=3),
        timings=Timings(1.0, 2.0, 3.0, 4.0),
    )
