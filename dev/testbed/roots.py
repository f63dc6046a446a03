"""Debian roots with an older and a newer libvirt than the machine's own, made by mmdebstrap."""

import re
import subprocess
from pathlib import Path

from testbed.cache import cached, say
from testbed.errors import TestbedError

SUITES = {"7.0": "bullseye", "11.3": "trixie"}
PACKAGES = ("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-utils")


def root(release: str) -> Path:
    """Return a Debian root directory with libvirt `release` ("7.0" or "11.3"), made when it is not cached.

    Treat it as read-only: others use the same directory. Raises TestbedError when it cannot be made.
    """
    if release not in SUITES:
        raise TestbedError(f"No Debian root has libvirt {release}; there are {', '.join(SUITES)}.")
    suite = SUITES[release]

    def build(path: Path) -> None:
        say(f"making a Debian {suite} root with libvirt {release} (about a minute) ...")
        command = [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            # Archived releases are not signed anew, so their signature is past its date.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            suite,
            str(path),
            mirror(),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise TestbedError(
                f"mmdebstrap {suite} failed; is the mirror of apt's sources reachable?\n{result.stderr[-2000:]}"
            )

    return cached(f"root-{suite}", build)


def mirror() -> str:
    """Return the Debian mirror that this machine's apt uses. Raises TestbedError when apt has none."""
    command = ["apt-get", "indextargets", "--format", "$(CREATED_BY) $(LABEL) $(COMPONENT) $(RELEASE) $(REPO_URI)"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    for line in lines:
        kind, *_, uri = line.split()
        if kind == "Packages" and re.search(r"/debian/?$", uri):
            return uri
    raise TestbedError("apt's sources name no Debian archive (an address ending in /debian): add one.")
