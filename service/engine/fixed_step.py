"""A decode step whose shapes and memory are fixed, so that a device can record and repeat it.

The rows at the bottom, one a window, decode together by the same forward, rules and draw as in any
step. What differs is how the step learns who they are: from three columns of numbers in memory that
stays where it is, and not from shapes. Rows are rounded up to one of a few numbers, and so is what
they read of their keys. Rows that are too many are idle: they are computed, write where nobody
reads, and change nothing.

Run as it is, it is an ordinary step. `service.engine.graphs` records it (docs/adr/0016).

Knows nothing about requests, several hypotheses a window, or graphs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.decoding.sampling import Sampler
from service.engine.types import Group
from service.model import KVCache, WhisperModel

_LEAST_KEYS = 64
_LEAST_CROSS = 256
_DRAWN = 3
"""Numbers a row in `Draw.packed`."""


@dataclass(frozen=True, slots=True)
class StepShape:
    """All that the operations of a step depend on.

    Attributes:
        n_rows: rows that are computed, idle ones among them.
        n_key: positions of their texts that are read.
        n_cross: encoder positions of their windows that are read.
        with_noise: whether rows among them sample at a temperature.
    """

    n_rows: int
    n_key: int
    n_cross: int
    with_noise: bool


class FixedStep:
    """One step of the rows from the first on, the window of row `i` in slot `i`.

    Args:
        model: on its device.
        cache: with a spare row after the others.
        sampler: with the state of all rows, and of the spare one.
        last: i64[rows + 1], the token that each row decodes next; written.

    Attributes:
        shapes: those that steps can have, the largest first.
        reads_whole_windows: whether all windows have the length that the model was trained on.
        places: i64[rows 3], where rows read and write; of idle ones unless somebody launches.
        run: takes the step of a shape; whoever records steps puts something faster here.
    """

    def __init__(self, model: WhisperModel, cache: KVCache, sampler: Sampler, last: Tensor) -> None:
        self._model = model
        self._cache = cache
        self._sampler = sampler
        self._last = last
        self.reads_whole_windows = model.config.has_whole_windows
        most = min(cache.rows, cache.windows)
        self._rows = doubled(1, most)
        self._keys = doubled(_LEAST_KEYS, cache.n_text_ctx)
        least = cache.n_audio_ctx if self.reads_whole_windows else _LEAST_CROSS
        self._crosses = doubled(least, cache.n_audio_ctx)
        self.shapes = [
            StepShape(*sizes)
            for sizes in itertools.product(
                self._rows[::-1], self._keys[::-1], self._crosses[::-1], (True, False)
            )
        ]
        on_gpu = cache.device.type == "cuda"
        # A column each: row to write to, position, encoder positions of the window.
        self._nobody = torch.tensor([cache.rows, 0, cache.n_audio_ctx])
        self._given = torch.zeros(most, 3, dtype=torch.int64, pin_memory=on_gpu)
        self.places = torch.zeros(most, 3, dtype=torch.int64, device=cache.device)
        self._packed = torch.zeros(most, _DRAWN, dtype=torch.float64, device=cache.device)
        self._answer = torch.zeros(most, _DRAWN, dtype=torch.float64, pin_memory=on_gpu)
        self._answered: torch.cuda.Event | None = None
        if on_gpu:
            self._answered = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._n_launched = 0
        self.run: Callable[[StepShape], None] = self.run_operations

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._cache.device

    @property
    def is_recorded(self) -> bool:
        """Whether something else than the operations themselves takes steps."""
        return self.run != self.run_operations

    def covers(self, group: Group) -> bool:
        """Whether a group is rows from the first on, with one window each."""
        return group.width == 1 and group.row == 0 and group.slot == 0

    def shape_of(self, positions: Sequence[int]) -> StepShape:
        """Return the shape of a step of rows whose tokens stand at these positions."""
        n_rows = len(positions)
        longest = max(self._cache.cross_length(slot) for slot in range(n_rows))
        return StepShape(
            n_rows=_next(self._rows, n_rows),
            n_key=_next(self._keys, max(positions) + 1),
            n_cross=_next(self._crosses, longest),
            with_noise=self._sampler.is_sampled(0, n_rows),
        )

    def launch(self, positions: Sequence[int]) -> None:
        """Take a step on as many rows as there are positions; what they draw is then noted.

        Returns before a GPU has done it: `read` waits. A step that raises has changed nothing that
        the same step would not write again.
        """
        shape, n_rows = self.shape_of(positions), len(positions)
        lengths = [self._cache.cross_length(slot) for slot in range(n_rows)]
        self._given[:n_rows] = torch.tensor([*zip(range(n_rows), positions, lengths, strict=True)])
        self._given[n_rows : shape.n_rows] = self._nobody
        computed = slice(shape.n_rows)
        self.places[computed].copy_(self._given[computed], non_blocking=True)
        self.run(shape)
        self._answer[computed].copy_(self._packed[computed], non_blocking=True)
        if self._answered is not None:
            self._answered.record()
        self._n_launched = n_rows

    def read(self) -> list[float]:
        """Wait for what was launched -> `Draw.packed` of its rows, one after another."""
        if self._answered is not None:
            self._answered.synchronize()
        values: list[float] = self._answer[: self._n_launched].flatten().tolist()
        return values

    def idle(self, position: int = 0, length: int = 1) -> None:
        """Let all rows be idle, so that a step changes nothing, but read as if they stood there."""
        nobody = torch.tensor([self._cache.rows, position, length])
        self.places.copy_(nobody.expand_as(self.places))

    def drawn(self, shape: StepShape) -> Tensor:
        """Return `Draw.packed` of all rows of a shape that was run, idle ones too: f64[b 3]."""
        return self._packed[: shape.n_rows].clone()

    def keep_to_largest(self) -> None:
        """Take every step in the largest shape from now on."""
        self._rows, self._keys = self._rows[-1:], self._keys[-1:]
        self._crosses = self._crosses[-1:]

    def run_operations(self, shape: StepShape) -> None:
        """Do the step on the device: decode, apply the rules, draw, and note what was drawn."""
        places = self.places[: shape.n_rows]
        rows, positions, lengths = places.unbind(1)
        view = self._cache.fixed_view(
            rows,
            positions,
            None if self.reads_whole_windows else lengths,
            shape.n_key,
            shape.n_cross,
        )
        decoder = self._model.decoder
        hidden = decoder.decode(self._last[: shape.n_rows], [view])
        logits = decoder.logits(hidden)[: shape.n_rows]
        draw = self._sampler.draw_fixed(logits, with_noise=shape.with_noise)
        self._sampler.commit(draw, rows)
        self._last[rows] = draw.tokens
        self._packed[: shape.n_rows] = draw.packed


def doubled(first: int, last: int) -> list[int]:
    """Return `first` and its doubles under `last`, and `last`."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


def _next(sizes: Sequence[int], n: int) -> int:
    """Return the smallest size that holds `n`."""
    return next(size for size in sizes if size >= n)
