"""The program of dev/kstatus: what the library that Helm and Flux use thinks of an object."""

import hashlib
import os
import subprocess
from pathlib import Path

from testbed.cache import cached, say
from testbed.errors import TestbedError

SOURCES = Path(__file__).resolve().parent.parent / "kstatus"


def kstatus_program() -> Path:
    """Return its path; built when its sources have changed. Raises TestbedError when it cannot be built."""
    digest = hashlib.sha256(b"".join((SOURCES / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")))

    def build(path: Path) -> None:
        say("building kstatus ...")
        environment = {"GOTOOLCHAIN": "auto", "GOFLAGS": "-buildvcs=false"} | os.environ
        command = ["go", "build", "-trimpath", "-o", str(path), "."]
        if subprocess.run(command, cwd=SOURCES, env=environment, check=False).returncode:
            raise TestbedError(f"Building {SOURCES} failed, see the lines above.")

    return cached(f"kstatus-{digest.hexdigest()[:12]}/kstatus", build)
