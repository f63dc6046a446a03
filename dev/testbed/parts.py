"""`python -m testbed.parts`: make what takes minutes the first time. The tests need it, and have less patience."""

import sys
import tempfile
from pathlib import Path

from testbed.boot import boot_files
from testbed.errors import TestbedError
from testbed.kstatus import kstatus_program
from testbed.roots import SUITES, root
from testbed.tools import build

PROGRAMS = ("etcd", "kube-apiserver", "kubectl", "helm")


def main() -> int:
    """Return the exit code: 0 all is there, 1 something cannot be made."""
    try:
        build(*PROGRAMS)
        kstatus_program()
        for release in SUITES:
            root(release)
        with tempfile.TemporaryDirectory() as directory:
            boot_files(Path(directory))
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
