"""What the CPU that runs the tests has."""

from __future__ import annotations

import pytest
import torch

from service.model.numerics import Numerics, choose_numerics

CPU = torch.device("cpu")


def here(name: str) -> Numerics:
    """The numerics of a name, or a skip where this CPU has not the instructions."""
    try:
        return choose_numerics(name, CPU, torch.float32)
    except ValueError as error:
        pytest.skip(str(error))
