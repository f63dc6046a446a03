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
    for _, uri in _index_targets():
        if re.search(r"/debian/?$", uri):
            return uri
    raise TestbedError("apt's sources name no Debian archive (an address ending in /debian): add one.")


def archives(suite: str) -> list[str]:
    """Return the lines of sources.list for `suite`, with its updates where this machine's apt knows them."""
    known = [f"deb {uri} {name} main" for name, uri in _index_targets() if name.startswith(f"{suite}-")]
    return [f"deb {mirror()} {suite} main", *(line for line in dict.fromkeys(known) if "backports" not in line)]


def _index_targets() -> list[tuple[str, str]]:
    """Return suite and address of what this machine's apt reads from Debian."""
    template = "$(CREATED_BY)|$(ORIGIN)|$(RELEASE)|$(REPO_URI)"
    command = ["apt-get", "indextargets", "--format", template]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    rows = (line.split("|") for line in lines)
    return [(release, uri) for kind, origin, release, uri in rows if kind == "Packages" and origin in ("Debian", "")]
