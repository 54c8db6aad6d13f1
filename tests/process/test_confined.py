"""What `read_only`, `cap_drop` and `no-new-privileges` leave is enough for the service."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import wave
from pathlib import Path

import pytest

from tests.process.confined import NAMESPACES
from tests.process.running import Running


def _can_confine() -> bool:
    """Whether the tools are there, and the kernel lets this user make namespaces."""
    if not all(map(shutil.which, ("unshare", "setpriv", "findmnt"))):
        return False
    tried = subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False, timeout=60)
    return tried.returncode == 0


pytestmark = pytest.mark.skipif(
    not _can_confine(), reason="needs unshare, setpriv, findmnt and user namespaces"
)


def test_it_serves_from_a_read_only_root_without_any_capability(
    random_model: Path, tmp_path: Path
) -> None:
    upload = tmp_path / "telephone.wav"  # not 16 kHz: a child decodes it
    with wave.open(str(upload), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(bytes(16_000))
    with Running("--model", str(random_model), module="tests.process.confined") as service:
        service.wait_ready()
        process = Path("/proc") / str(service.process.pid)
        status = (process / "status").read_text(encoding="ascii")
        assert set(re.findall(r"^Cap\w+:\s+(\w+)$", status, re.MULTILINE)) == {"0" * 16}
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
        writable = {mount[4] for mount in mounts if "ro" not in mount[5].split(",")}
        kernels = ("/proc", "/sys", "/dev")
        assert not [path for path in writable if not path.startswith(kernels)]
        assert list(service.transcribe(upload).events())[-1]["type"] == "done"
        service.send_signal(signal.SIGTERM)
        assert service.wait()[0] == 0
