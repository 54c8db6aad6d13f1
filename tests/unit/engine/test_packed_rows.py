"""Packed products are computed over few numbers of rows, whatever lengths requests bring.

oneDNN keeps what it makes for each of them, so this is what keeps memory where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from service.decoding.params import AlignParams, SequenceParams
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.types import AlignStart, Group, Start
from service.model import WhisperModel
from service.model.attention import SelfAttention
from service.model.encoder import AudioEncoder
from service.model.int8 import CompiledInt8Linear, Int8Linear
from service.model.numerics import choose_numerics, has_tiles
from service.model.packed import PackedLinear, pack
from tests.unit.engine.fakes import SPECIAL, window
from tests.unit.engine.models import lively_model, small_config
from tests.unit.model.cpus import compiled, leave_out_what_is_compiled

CONFIG = small_config(n_audio_ctx=400, rounding=16)
"""50 lengths of a window, every 8 positions."""


PRODUCTS = {"matmul", "mm", "bmm", "addmm", "baddbmm", "linear"}


def n_rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def everything(runner: ModelRunner) -> None:
    """Windows, prompts and texts of many lengths, and every number of rows in a step."""
    for n_frames in range(16, CONFIG.max_frames + 1, 16):
        for n_windows in (1, 4):
            runner.encode([(slot, window(n_frames, seed=slot)) for slot in range(n_windows)])
    for length in range(1, 201, 4):
        prompt = tuple(token % 100 for token in range(length))
        runner.prefill([Start(0, 0, SequenceParams(prompt, length - 1, 2))])
        runner.align([AlignStart(0, 0, AlignParams((SPECIAL.sot,), (1,) * length, 800))])
    for slot in range(32):
        runner.encode([(slot, window(60, seed=slot))])
        runner.prefill([Start(slot, slot, SequenceParams((SPECIAL.sot,), 0, 2))])
    for n_windows in range(1, 33):
        runner.decode([Group(0, 0, n_windows)])


class Rows:
    """Notes with how many rows packed modules are called, and with how many their products.

    Attributes:
        asked, reached: these numbers.
        kernels: what is made for them: a number of rows, and how many values go in and come out;
            of what is convolved, its shape; of what is attended to, its length.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: set[int] = set()
        self.reached: set[int] = set()
        self.kernels: set[tuple[int, ...]] = set()
        for kind in (PackedLinear, Int8Linear):
            monkeypatch.setattr(kind, "_product", self._noting(kind._product))
        convolve = AudioEncoder.convolve

        def noting(encoder: AudioEncoder, mel: Tensor) -> Tensor:
            self.kernels.add(tuple(mel.shape))
            return convolve(encoder, mel)

        monkeypatch.setattr(AudioEncoder, "convolve", noting)
        attend = SelfAttention.forward

        def noting_length(attention: SelfAttention, x: Tensor, **how: bool) -> Tensor:
            self.kernels.add((x.shape[-2],))
            return attend(attention, x, **how)

        monkeypatch.setattr(SelfAttention, "forward", noting_length)

    def watch(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, PackedLinear | Int8Linear | CompiledInt8Linear):
                module.register_forward_pre_hook(lambda _, args: self.asked.add(n_rows(args[0])))

    def _noting(self, product: Callable[..., Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
        def noting(module: nn.Module, x: Tensor) -> Tensor:
            self.reached.add(n_rows(x))
            out = product(module, x)
            self.kernels.add((n_rows(x), x.shape[-1], out.shape[-1]))
            return out

        return noting


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the shapes of the products in bfloat16 that are oneDNN's and not packed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[object, ...]] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            factors = [x for x in args if isinstance(x, Tensor)]
            if any(x.dtype == torch.bfloat16 for x in factors):
                self.shapes.add((str(func), *(tuple(x.shape) for x in factors)))
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["compiled", "by torch"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the decoder and the head in 8 bits are computed by, where a C compiler was."""
    if request.param == "by torch":
        leave_out_what_is_compiled(monkeypatch)
    else:
        compiled()
    return str(request.param)


def packed(name: str) -> WhisperModel:
    """A model in the numerics of a name, or a skip where this CPU has not the instructions."""
    model = lively_model(CONFIG)
    try:
        pack(model, choose_numerics(name, torch.device("cpu"), torch.float32))
    except ValueError as error:
        pytest.skip(str(error))
    return model


@pytest.mark.parametrize("name", ["packed", "bfloat16", "mixed", "mixed-decoder", "int8"])
@pytest.mark.usefixtures("decoder")
def test_few_numbers_of_rows_reach_the_packed_products(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, model = Rows(monkeypatch), packed(name)
    rows.watch(model)
    everything(ModelRunner(model, SPECIAL, RunnerConfig(32, 32, encode_batch=4, probe=False)))
    assert max(rows.asked) == 1600
    assert len(rows.asked) > 80
    assert len(rows.reached) <= 15 + 3, "and full windows: one, two and four of them"
    assert all(n % 4 == 0 or n < 8 for n in rows.reached)


@pytest.mark.parametrize("name", ["packed", "bfloat16", "mixed-decoder", "int8"])
@pytest.mark.usefixtures("decoder")
def test_all_that_requests_reach_was_made_at_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, model = Rows(monkeypatch), packed(name)
    runner = ModelRunner(model, SPECIAL, RunnerConfig(32, 32, encode_batch=4))
    runner.warm_up()
    made = set(rows.kernels)
    everything(runner)
    assert len(made) >= 50, "the convolutions of each length"
    later = {k for k in rows.kernels - made if name == "bfloat16" or k[:-1]}  # not only a length
    assert {kernel[-1] for kernel in later} <= {CONFIG.n_vocab}, "the head, over texts as they come"


@pytest.mark.parametrize("name", ["bfloat16", "mixed", "mixed-decoder", "int8"])
@pytest.mark.usefixtures("decoder")
def test_no_other_product_has_a_kernel_for_each_length(name: str) -> None:
    if name in {"bfloat16", "mixed"} and not has_tiles():
        pytest.skip("needs a CPU with amx_tile: attention in bfloat16 is oneDNN's without")
    runner = ModelRunner(packed(name), SPECIAL, RunnerConfig(32, 32, probe=False))
    with Products() as products:
        everything(runner)
    assert not products.shapes
