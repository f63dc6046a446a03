"""Run the product with a system clock that can be set by writing seconds into a file: argv is FILE, then its own.

Only this process is deceived. The kernel's time since boot, which the product counts with, goes on as ever.
"""

import runpy
import sys
import time
from pathlib import Path

real_time = time.time
offset = Path(sys.argv.pop(1))


def jumped_time() -> float:
    return real_time() + float(offset.read_text())


if __name__ == "__main__":
    time.time = jumped_time
    runpy.run_module("vmbackup", run_name="__main__", alter_sys=True)
