"""`earshot` that stands still while a file exists: it does not load, or does not decode."""

from __future__ import annotations

import sys

from service import serving
from service.cli import main

VARIABLE = "HOLD"

if __name__ == "__main__":
    serving.PROGRAM = (sys.executable, "-P", "-m", "tests.process.held_engine")
    main()
