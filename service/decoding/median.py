"""A running median over seven positions, by comparing whole rows with each other.

Seven positions that begin at an even one and the seven after them have six in common. Of those six
the two in the middle are found once; the median of seven is the seventh one, held between these
two. So every comparison is of half the positions, and a median costs ten of the whole.

Knows nothing about attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDTH = 7
_REACH = WIDTH // 2


class RunningMedian:
    """Filters tensors of one shape in buffers of its own: fresh memory would cost more than this.

    Args:
        shape: of what is filtered; the median runs over the last axis.
        device: where it is.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self._n = shape[-1]
        rows, half = shape[:-1], (self._n + 1) // 2
        self._half = half
        self._even = torch.zeros(*rows, half + _REACH, device=device)
        self._odd = torch.zeros_like(self._even)
        self._low = torch.empty(*rows, half + 2, device=device)
        self._high = torch.empty_like(self._low)
        self._spare = [torch.empty(*rows, half, device=device) for _ in range(5)]
        self._out = torch.empty(*rows, 2, half, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the medians, those of even positions first: [... t] -> [... 2 (t+1)/2].

        `interleaved` puts them in order. The result is overwritten by the next call. At the ends
        the positions are mirrored; there have to be more than three.
        """
        self._take(x)
        lower, upper = self._middle_of_six()
        even, odd, half = self._even, self._odd, self._half
        for at, seventh in enumerate((even[..., :half], odd[..., _REACH:])):
            held = torch.maximum(seventh, lower, out=self._spare[4])
            torch.minimum(held, upper, out=self._out[..., at, :])
        return self._out

    def interleaved(self, medians: Tensor) -> Tensor:
        """Return what `__call__` gave in the order of positions: [... 2 (t+1)/2] -> [... t]."""
        return medians.transpose(-1, -2).flatten(-2)[..., : self._n]

    def _take(self, x: Tensor) -> None:
        """Part even from odd positions, three mirrored ones at each end."""
        n = self._n
        self._even[..., 2 : 2 + n // 2] = x[..., 1::2]
        self._odd[..., 1 : 1 + (n + 1) // 2] = x[..., 0::2]
        for place in range(_REACH):
            for at, source in ((place, _REACH - place), (n + _REACH + place, n - 2 - place)):
                side = self._odd if at % 2 else self._even
                side[..., at // 2] = x[..., source]

    def _middle_of_six(self) -> tuple[Tensor, Tensor]:
        """Return the third and the fourth smallest of the six that two medians share."""
        half, (a, b, c, d, e) = self._half, self._spare
        first, second = self._odd[..., : half + 2], self._even[..., 1 : half + 3]
        low = torch.minimum(first, second, out=self._low)
        high = torch.maximum(first, second, out=self._high)
        # Of the three lower ones of three pairs the smallest is under four others, and of the three
        # higher ones the largest is over four: neither is in the middle.
        x, y, z = (low[..., k : k + half] for k in range(3))
        torch.maximum(x, y, out=a)
        torch.minimum(x, y, out=b)
        torch.minimum(a, z, out=c)
        middle_low = torch.maximum(b, c, out=b)
        most_low = torch.maximum(a, z, out=a)
        x, y, z = (high[..., k : k + half] for k in range(3))
        torch.maximum(x, y, out=c)
        torch.minimum(x, y, out=d)
        torch.minimum(c, z, out=c)
        least_high = torch.minimum(d, c, out=e)
        middle_high = torch.maximum(d, c, out=d)
        torch.maximum(middle_low, least_high, out=b)
        torch.minimum(most_low, middle_high, out=a)
        return torch.minimum(a, b, out=c), torch.maximum(a, b, out=d)


def running_median(x: Tensor) -> Tensor:
    """Return the running median of the last axis, mirrored at its ends.

    Formula: openai/whisper `timing.py` `median_filter`. Too few positions to mirror are left.
    """
    if x.shape[-1] <= _REACH:
        return x
    median = RunningMedian(tuple(x.shape), x.device)
    return median.interleaved(median(x))
