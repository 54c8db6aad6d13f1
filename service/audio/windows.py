"""Where windows lie in a recording, and the samples that each needs. Pure arithmetic.

Knows nothing about torch, models or tokens: whoever decodes a window says how far it got.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_FRAME = 160
"""One mel frame is 10 ms at 16 kHz."""
FRAMES_PER_SECOND = 100
CONTEXT_SAMPLES = 200
"""A mel frame looks this far to each side of its centre."""


def total_frames(n_samples: int) -> int:
    """Return how many mel frames a recording holds: the reference's whole hops, but at least one.

    The last frame is centred one hop before the end of those and reaches 200 samples further, so
    that at most the last 119 samples (7 ms) lie outside of it: the price of giving the same mel,
    and so the same tokens, as openai/whisper.

    Raises:
        ValueError: if there is no sample.
    """
    if n_samples < 1:
        raise ValueError(f"a recording needs at least one sample, found {n_samples}")
    return max(1, n_samples // SAMPLES_PER_FRAME)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the recording that is decoded at once.

    Attributes:
        index: 0, 1, 2 ... in the order in which windows are taken.
        start_frame: its first mel frame in the recording.
        content_frames: how many frames it has, at most the model's longest window.
        longest_frames: how many the model's longest window has.
    """

    index: int
    start_frame: int
    content_frames: int
    longest_frames: int = 3000

    @property
    def end_frame(self) -> int:
        """The frame after its last one."""
        return self.start_frame + self.content_frames

    @property
    def longest_end_s(self) -> float:
        """Where it would end if the recording did not end before, in seconds."""
        return (self.start_frame + self.longest_frames) / FRAMES_PER_SECOND

    @property
    def start_s(self) -> float:
        """Seconds from the start of the recording."""
        return self.start_frame / FRAMES_PER_SECOND

    @property
    def duration_s(self) -> float:
        """Seconds of audio in it."""
        return self.content_frames / FRAMES_PER_SECOND


class SeekPlanner:
    """Walks over a recording window by window, so that every frame of every clip is in one.

    `next()` gives the window at the current position and can be called again without moving;
    `advance()` says up to which frame the recording is transcribed, which is the end of the window
    or, where the model stopped early, any frame after its start.

    Args:
        n_frames: frames of the recording (`total_frames`).
        max_frames: frames of the longest window that the model takes.
        clips: (start, end) frames to transcribe, in order and without overlap; None is everything.
            An end past the recording's is cut to it.

    Raises:
        ValueError: if a length is not positive, or clips are out of order.
    """

    def __init__(
        self, n_frames: int, max_frames: int, clips: Sequence[tuple[int, int]] | None = None
    ) -> None:
        if n_frames < 1 or max_frames < 1:
            raise ValueError(f"lengths must be positive, found {n_frames=} and {max_frames=}")
        self._max_frames = max_frames
        self._clips = clips_within(clips, n_frames)
        self._clip = 0
        self._index = 0
        self._seek = self._clips[0][0] if self._clips else n_frames

    @property
    def seek(self) -> int:
        """The frame at which the next window starts; the end of the last clip when done."""
        return self._seek

    def next(self) -> Window | None:
        """Return the window at the current position, or None when everything is transcribed."""
        if self._clip >= len(self._clips):
            return None
        end = self._clips[self._clip][1]
        content_frames = min(self._max_frames, end - self._seek)
        return Window(self._index, self._seek, content_frames, self._max_frames)

    def advance(self, to_frame: int) -> None:
        """Move to `to_frame`, or to the next clip if that is where the current one ends.

        Raises:
            ValueError: if `to_frame` does not lie after the current window's start and at or
                before its end: standing still never ends, and a jump would drop audio.
        """
        window = self.next()
        if window is None:
            raise ValueError(f"cannot advance to frame {to_frame}: nothing is left")
        if not window.start_frame < to_frame <= window.end_frame:
            raise ValueError(
                f"cannot advance to frame {to_frame}: the window has frames "
                f"{window.start_frame} to {window.end_frame}"
            )
        self._index += 1
        self._seek = to_frame
        if to_frame == self._clips[self._clip][1]:
            self._next_clip()

    def end_clip(self) -> None:
        """Leave out what is left of the current clip: nothing in it is worth hearing."""
        if self._clip < len(self._clips):
            self._index += 1
            self._seek = self._clips[self._clip][1]
            self._next_clip()

    def _next_clip(self) -> None:
        self._clip += 1
        if self._clip < len(self._clips):
            self._seek = self._clips[self._clip][0]


def clips_within(clips: Sequence[tuple[int, int]] | None, n_frames: int) -> list[tuple[int, int]]:
    """Return the clips of a recording that hold audio, cut to its end; all of it for None.

    Raises:
        ValueError: if they are out of order or overlap.
    """
    if clips is None:
        return [(0, n_frames)]
    checked: list[tuple[int, int]] = []
    previous_end = 0
    for start, end in clips:
        if not previous_end <= start <= end:
            raise ValueError(f"clip ({start}, {end}) is out of order after frame {previous_end}")
        previous_end = end
        if start < min(end, n_frames):
            checked.append((start, min(end, n_frames)))
    return checked


def extract(
    waveform: NDArray[np.float32], start_frame: int, content_frames: int
) -> NDArray[np.float32]:
    """Return the samples that the mel frames of a window depend on.

    On each side are 200 samples of context: the neighbouring audio, mirrored at the recording's
    start (as `torch.stft(center=True)` does), zeros after its end (the reference appends 30 s of
    them).

    Shapes: waveform f32[n] -> f32[content_frames*160 + 400], always a copy.

    Raises:
        ValueError: if `start_frame` is negative or `content_frames` is not positive.
    """
    if start_frame < 0 or content_frames < 1:
        raise ValueError(f"there is no window at {start_frame=} with {content_frames=}")
    first = start_frame * SAMPLES_PER_FRAME - CONTEXT_SAMPLES
    length = content_frames * SAMPLES_PER_FRAME + 2 * CONTEXT_SAMPLES
    samples = np.zeros(length, dtype=np.float32)
    _copy(waveform, max(first, 0), samples[max(-first, 0) :])
    if first < 0:
        mirrored = np.zeros(-first, dtype=np.float32)
        _copy(waveform, 1, mirrored)
        samples[:-first] = mirrored[::-1]
    return samples


def _copy(waveform: NDArray[np.float32], start: int, into: NDArray[np.float32]) -> None:
    """Copy what there is of `waveform` from `start` on."""
    piece = waveform[start : start + len(into)]
    into[: len(piece)] = piece
