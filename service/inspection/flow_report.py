"""A data flow in plain values and in sentences. Knows nothing about drawing or command lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.inspection.flow import Box
from service.inspection.opened import Opened

ARCHITECTURE = "encoder-decoder (Whisper/T5)"
UNITS = "FLOP/window: encoder and K,V of one full window. FLOP/token: full context."


def heading(model: Opened) -> str:
    """Return the line above a drawing."""
    return f"Model: {model.name} ({ARCHITECTURE}, {model.format})"


def notes(model: Opened) -> list[str]:
    """Return what stands below a drawing."""
    assumed = f"Assumed, the file does not say: {', '.join(model.assumed)}"
    return [UNITS, *([assumed] if model.assumed else [])]


def report(
    model: Opened,
    flow: tuple[Box, ...],
    *,
    file: str,
    component: str = "full",
    stats: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return nested plain values.

    Args:
        model: an open file.
        flow: all of it, or what was chosen.
        file: what to call it.
        component: that was chosen.
        stats: name -> figures of weights, which go beside what is said of them.
    """
    config = model.config
    weights = [weight for box in flow for weight in box.all_weights]
    return {
        "file": file,
        "format": str(model.format),
        "architecture": ARCHITECTURE,
        "component": component.lower(),
        "total_tensors": len(model.tensors.infos),
        "encoder_layers": config.n_audio_layer if config else None,
        "decoder_layers": config.n_text_layer if config else None,
        "assumed": list(model.assumed),
        "flow": [box.to_json() for box in flow],
        "weights": [
            {
                "name": weight.name,
                "shape": list(weight.shape),
                "dtype": weight.encoding,
                "size_bytes": weight.nbytes,
                **(stats or {}).get(weight.name, {}),
            }
            for weight in weights
        ],
    }
