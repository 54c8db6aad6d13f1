"""The dimensions of a Whisper model. Knows nothing about where they were read from."""

from __future__ import annotations

from dataclasses import dataclass

FRAMES_PER_POSITION = 2
"""conv2 has stride 2: one encoder position is two mel frames, 20 ms of audio."""

_MAY_BE_ZERO = ("window_rounding_frames", "shortest_window_frames", "separate_head")


@dataclass(frozen=True, slots=True)
class WhisperConfig:
    """Whisper's dimensions, with openai/whisper's names where it has one.

    Attributes:
        n_mels: mel bands of the input, 80 or 128.
        n_audio_ctx: encoder positions of a full window (1500, that is 30 s).
        d_model: width of encoder and decoder.
        n_audio_head, n_audio_layer, n_audio_ffn: the encoder's heads, depth, feed-forward width.
        n_vocab: rows of the token embedding, and of the LM head.
        n_text_ctx: decoder positions (448).
        n_text_head, n_text_layer, n_text_ffn: the decoder's heads, depth, feed-forward width.
        window_rounding_frames: 0 for a model that was trained on windows padded to 30 s. Otherwise
            the model takes windows of any length, rounded up with silence to a multiple of this
            many mel frames, which is the rounding that it was trained with.
        shortest_window_frames: where windows are rounded up, the least that one is rounded to.
        separate_head: whether the LM head has weights of its own; it is the token embedding in
            every released Whisper.

    Raises:
        ValueError: if heads do not divide `d_model`, or a dimension is not positive.
    """

    n_mels: int
    n_audio_ctx: int
    d_model: int
    n_audio_head: int
    n_audio_layer: int
    n_audio_ffn: int
    n_vocab: int
    n_text_ctx: int
    n_text_head: int
    n_text_layer: int
    n_text_ffn: int
    window_rounding_frames: int = 0
    shortest_window_frames: int = 0
    separate_head: bool = False

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value < 1 and not (name in _MAY_BE_ZERO and value == 0):
                raise ValueError(f"{name} must be positive, found {value}")
        for name in ("n_audio_head", "n_text_head"):
            if self.d_model % getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)} does not divide {self.d_model=}")
        if self.window_rounding_frames % FRAMES_PER_POSITION:
            raise ValueError(f"window_rounding_frames={self.window_rounding_frames} must be even")

    @property
    def max_frames(self) -> int:
        """Mel frames of the longest window (3000: 30 s)."""
        return self.n_audio_ctx * FRAMES_PER_POSITION

    @property
    def has_whole_windows(self) -> bool:
        """Whether all windows have one length, as those of all released Whispers have."""
        return not self.window_rounding_frames

    def window_frames(self, content_frames: int) -> int:
        """Return how many mel frames a window with this much content is encoded as.

        It depends on the window alone, never on its neighbours: that is what keeps a transcript
        independent of the batch.
        """
        if self.has_whole_windows:
            return self.max_frames
        step = self.window_rounding_frames
        rounded = -(-max(content_frames, self.shortest_window_frames, 1) // step) * step
        return min(rounded, self.max_frames)
