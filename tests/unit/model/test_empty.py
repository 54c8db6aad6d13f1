"""Models without memory for their weights."""

from __future__ import annotations

import subprocess
import sys

from service.model import WhisperConfig, WhisperModel
from service.model.empty import empty_model

_LOAD = """
import sys
from service.checkpoints import build_model, load_checkpoint
build_model(load_checkpoint("service/builtin"))
sys.exit("torch._dynamo" in sys.modules or "sympy" in sys.modules)
"""


def test_an_empty_model_has_the_shapes_and_dtypes_of_a_real_one() -> None:
    config = WhisperConfig(128, 50, 24, 2, 2, 40, 300, 32, 4, 3, 20)
    empty, real = empty_model(config).state_dict(), WhisperModel(config).state_dict()
    assert all(tensor.is_meta for tensor in empty.values())
    assert {n: (t.shape, t.dtype) for n, t in empty.items()} == {
        n: (t.shape, t.dtype) for n, t in real.items()
    }


def test_loading_a_model_does_not_import_the_compiler() -> None:
    ended = subprocess.run([sys.executable, "-c", _LOAD], check=False, timeout=120)
    assert ended.returncode == 0
