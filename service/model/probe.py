"""Proves at start that a row's bits do not depend on its neighbours, on the kernels in use.

Every row of the cache is given the same window and the same prompt, so every row of every batch has
to produce the same bits. All rows are compared: looking at the first one only hides what a matrix
library does to the last ones (docs/adr/0001-batch-invariance.md).

Knows nothing about requests; overwrites the cache.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from service.model import KVCache, RowGroup, WhisperModel
from service.model.kv_cache import KEY_MULTIPLE

POSITION_MULTIPLE = 4
"""Windows are encoded together only if their positions are a multiple of this: with others, the
matrix library's split of rows over threads would cut differently (docs/adr/0001)."""
_N_PROMPT = 4
_WIDTHS = (2, 5)
"""Hypotheses of a window that are tried."""
_TEXT_LENGTHS = (100, 31, 190, 60)
"""Tokens of the texts that are read together."""
_BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 11, 15, 16, 31, 32, 63, 64, 128)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the probe saw.

    Attributes:
        device, dtype, threads: what it ran on.
        row_multiple: what decoder rows are padded to, after the probe.
        encode_batch: how many windows may be encoded together, after the probe.
        align_batch: how many texts may be read together, after the probe.
        n_compared: rows compared with the same row alone.
        failures: what differed at that `row_multiple`, in words; empty if nothing did.
    """

    device: str
    dtype: str
    threads: int
    row_multiple: int
    encode_batch: int
    align_batch: int
    n_compared: int
    failures: tuple[str, ...]

    @property
    def is_invariant(self) -> bool:
        """Whether every row was the same in every batch."""
        return not self.failures

    def log(self, logger: logging.Logger) -> None:
        """Write one line: INFO if all is well, otherwise a warning that says what differs."""
        where = f"{self.device} {self.dtype}, {self.threads} threads"
        if self.is_invariant:
            logger.info(
                "batch invariance holds on %s: %d rows compared, decoder rows in multiples of %d, "
                "up to %d windows encoded and %d texts aligned together",
                where, self.n_compared, self.row_multiple, self.encode_batch, self.align_batch,
            )  # fmt: skip
        else:
            logger.warning(
                "batch invariance does NOT hold on %s: %s. Log-probabilities may differ in their "
                "last bits with the load", where, "; ".join(self.failures),
            )  # fmt: skip


def probe(
    model: WhisperModel, cache: KVCache, encode_batch: int, align_batch: int = 1
) -> ProbeReport:
    """Compare all rows over encoder batches, decoder batches, key lengths and texts read at once.

    Halves `encode_batch` until windows agree with themselves alone, and raises `row_multiple` of
    the decoder until rows agree, or until it covers all rows. `align_batch` becomes 1 unless texts
    agree with themselves alone.
    """
    compared = 0
    failures: list[str] = []
    if encode_batch > 1:
        compared, failures = _probe_encoder(model, cache, encode_batch)
    while failures and encode_batch > 1:
        encode_batch //= 2
        n_windows, failures = _probe_encoder(model, cache, encode_batch)
        compared += n_windows
    while True:
        n_rows, found = _probe_decoder(model, cache)
        compared += n_rows
        if not found or model.decoder.row_multiple >= cache.rows:
            break
        model.decoder.row_multiple *= 2
    n_rows, is_one = _probe_texts(model, cache, align_batch)
    compared += n_rows
    cache.self_.zero_()
    return ProbeReport(
        device=str(cache.device),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        row_multiple=model.decoder.row_multiple,
        encode_batch=encode_batch,
        align_batch=align_batch if is_one else 1,
        n_compared=compared,
        failures=(*failures, *found),
    )


def noise(*shape: int, device: torch.device) -> Tensor:
    """Return the same pseudo-random numbers every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(device)


def _probe_encoder(model: WhisperModel, cache: KVCache, encode_batch: int) -> tuple[int, list[str]]:
    """Compare windows in encoder batches, powers of two, with the same windows alone.

    In a batch of one, a window is compared with itself once more.
    """
    config = model.config
    compared, found = 0, []
    for n_frames in sorted({config.window_frames(1), config.max_frames}):
        if n_frames // 2 % POSITION_MULTIPLE:
            continue  # those are never encoded together
        mel = noise(encode_batch, config.n_mels, n_frames, device=cache.device)
        alone = [model.encode(window)[0] for window in torch.split(mel, 1)]
        for n_windows in (1 << power for power in range(encode_batch.bit_length())):
            together = model.encode(mel[:n_windows])
            differing = [
                row for row in range(n_windows) if not torch.equal(together[row], alone[row])
            ]
            compared += n_windows
            if differing:
                found.append(f"{n_windows} windows of {n_frames} frames: rows {differing}")
    return compared, found


def _probe_decoder(model: WhisperModel, cache: KVCache) -> tuple[int, list[str]]:
    """Compare rows alone with rows among others, one and several hypotheses a window."""
    n_rows, found = _probe_rows(model, cache)
    n_beams, found_in_beams = _probe_beams(model, cache)
    return n_rows + n_beams, found + found_in_beams


def _probe_rows(model: WhisperModel, cache: KVCache) -> tuple[int, list[str]]:
    """Compare rows alone with rows among others like them, and beside one that is far longer."""
    window, short = _windows(model, cache)
    cache.self_[:] = noise(*cache.self_[:, :, :1].shape, device=cache.device).to(model.dtype)
    for slot in range(cache.windows):
        cache.write_cross(slot, short)
    found: list[str] = []
    compared, longest = 0, cache.n_text_ctx - 1
    most = min(cache.rows, cache.windows)
    batches = sorted({min(n, most) for n in (*_BATCHES, most)})
    for position in (_N_PROMPT, KEY_MULTIPLE + _N_PROMPT):
        alone = _decode(model, cache, [position])[0]
        for n_rows in batches:
            logits = _decode(model, cache, [position] * n_rows)
            cache.write_cross(n_rows - 1, window)
            beside = _decode(model, cache, [position] * (n_rows - 1) + [longest])[:-1]
            cache.write_cross(n_rows - 1, short)
            for what, rows in (("like them", logits), ("and one longer", beside)):
                differing = [n for n, row in enumerate(rows) if not torch.equal(row, alone)]
                compared += len(rows)
                if differing:
                    found.append(f"{n_rows} rows at {position}, {what}: rows {differing}")
    return compared, found


def _probe_beams(model: WhisperModel, cache: KVCache) -> tuple[int, list[str]]:
    """Compare a window of several hypotheses alone with the same beside others, narrow and wide.

    What the rows of the cache hold is what `_probe_rows` left there.
    """
    compared, found = 0, []
    window, short = _windows(model, cache)
    longest = cache.n_text_ctx - 1
    for width in _WIDTHS:
        n_windows = min(cache.windows, cache.rows // width)
        if not n_windows:
            continue
        position = KEY_MULTIPLE + _N_PROMPT
        alone = _decode(model, cache, [position] * width, [RowGroup(0, 0, 1, width)])
        company = [RowGroup(0, 0, n_windows, width)]
        n_narrow = min(cache.windows - n_windows, cache.rows - n_windows * width, 3)
        if n_narrow:
            company.insert(0, RowGroup(n_windows * width, n_windows, n_narrow))
        positions = [position] * (n_narrow + n_windows * width)
        beside = _decode(model, cache, positions, company)[n_narrow:]
        # The last window is the longest that there is, and its text as long as it may be.
        positions[len(positions) - width :] = [longest] * width
        cache.write_cross(n_windows - 1, window)
        beside_longer = _decode(model, cache, positions, company)[n_narrow:-width]
        cache.write_cross(n_windows - 1, short)
        for what, rows in (("", beside), (", one of them longer", beside_longer)):
            differing = [n for n, row in enumerate(rows) if not torch.equal(row, alone[n % width])]
            compared += len(rows)
            if differing:
                found.append(f"{n_windows} windows of {width} hypotheses{what}: rows {differing}")
    return compared, found


def _probe_texts(model: WhisperModel, cache: KVCache, n_texts: int) -> tuple[int, bool]:
    """Compare texts read alone with the same read together, whichever comes first.

    Returns:
        Rows compared, and whether all were the same.
    """
    n_texts = min(n_texts, cache.rows, cache.windows)
    for slot, key_value in zip(range(n_texts), itertools.cycle(_windows(model, cache))):
        cache.write_cross(slot, key_value)
    lengths = [min(_TEXT_LENGTHS[n % len(_TEXT_LENGTHS)], cache.n_text_ctx) for n in range(n_texts)]
    texts = [(torch.arange(n) % model.config.n_vocab).tolist() for n in lengths]
    places = [RowGroup(n, n, 1) for n in range(n_texts)]
    alone = [
        model.read([text], cache, [place])[0] for text, place in zip(texts, places, strict=True)
    ]
    forwards = model.read(texts, cache, places)
    backwards = model.read(texts[::-1], cache, places[::-1])[::-1]
    is_one = all(
        torch.equal(own, one) and torch.equal(own, other)
        for own, one, other in zip(alone, forwards, backwards, strict=True)
    )
    return 2 * sum(lengths), is_one


def _windows(model: WhisperModel, cache: KVCache) -> tuple[Tensor, Tensor]:
    """Return the keys and values of the longest window and of the shortest."""
    window = noise(*cache.cross[:, :, 0].shape, device=cache.device).to(model.dtype)
    return window, window[..., : model.config.window_frames(1) // 2, :]


def _decode(
    model: WhisperModel,
    cache: KVCache,
    positions: list[int],
    groups: list[RowGroup] | None = None,
) -> Tensor:
    """Take one step with the same token on every row, and put back the keys it wrote."""
    tokens = torch.ones(len(positions), dtype=torch.int64, device=cache.device)
    groups = groups or [RowGroup(0, 0, len(positions))]
    rows = [group.row + n for group in groups for n in range(group.n_rows)]
    kept = [cache.self_[:, :, row, :, at].clone() for row, at in zip(rows, positions, strict=True)]
    logits = model.decode(tokens, positions, cache, groups)
    for row, at in zip(rows, positions, strict=True):
        cache.self_[:, :, row, :, at] = kept[row]
    return logits
