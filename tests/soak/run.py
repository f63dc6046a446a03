"""`python tests/soak/run.py --seconds N --seed S`: backups of several VMs under random faults.

Exit codes: 0 nothing was out of order, 1 something was (see the printed directory).
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "VMBACKUP_SOAK_INSIDE"

if __name__ == "__main__":
    if INSIDE not in os.environ:
        # Mounts of our own, gone with us whatever we die of.
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "slave", sys.executable, *sys.argv])  # noqa: S606
    sys.path[:1] = [str(ROOT / "tests"), str(ROOT / "dev")]
    from soak.course import main

    sys.exit(main())
