"""Loads the model files that are named on stdin, and says of each how that ended and what it took.

A process of its own: a crash is an exit code, and memory is what the system counts, whoever
allocated it. Linux only.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from service.checkpoints import build_model, load_checkpoint
from service.errors import CheckpointError


def resident(field: str) -> int:
    """Bytes that are resident now (VmRSS), were at the peak (VmHWM), or belong to no file."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB", status, flags=re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def load(path: str) -> dict[str, Any]:
    """Load and build a model; `peak_bytes` is what was resident beyond what was before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = resident("VmRSS")
    found: dict[str, Any] = {"error": None, "model_bytes": 0}
    try:
        model = build_model(load_checkpoint(path, offline=True))
        found["model_bytes"] = sum(t.nbytes for t in model.state_dict().values())
    except CheckpointError as error:
        found["error"] = error.message
    return found | {"peak_bytes": resident("VmHWM") - before}


def main() -> None:
    """Load the first file once for what is allocated on first use, then each one."""
    for i, line in enumerate(sys.stdin):
        if not i:
            load(line.rstrip("\n"))
        sys.stdout.write(json.dumps(load(line.rstrip("\n"))) + "\n")


if __name__ == "__main__":
    main()
