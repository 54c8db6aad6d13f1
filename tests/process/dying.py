"""`earshot` on a device that is lost at the first upload that is not silent."""

from __future__ import annotations

import sys

from service import serving
from service.cli import main

if __name__ == "__main__":
    serving.PROGRAM = (sys.executable, "-P", "-m", "tests.process.dying_engine")
    main()
