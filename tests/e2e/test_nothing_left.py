"""A test run that is killed leaves nothing on the machine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from integration.system.backup import eventually

START = """
import sys
from testbed.realcluster import RealCluster
with RealCluster() as cluster:
    print(cluster.directory, flush=True)
    sys.stdin.read()
"""


def test_killed_run_leaves_no_process_mount_or_file() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", START], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        directory = Path(run.stdout.readline().strip())
        assert directory.is_dir()
        assert processes_with(directory.name)
        assert groups(directory.name)
        run.send_signal(signal.SIGKILL)
    eventually(lambda: not directory.exists(), f"{directory} is removed")
    eventually(lambda: not processes_with(directory.name), "all processes are gone")
    eventually(lambda: not groups(directory.name), "all control groups are gone")
    assert directory.name not in Path("/proc/mounts").read_text()


def processes_with(word: str) -> list[str]:
    """Return the command lines of other processes that name `word`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it has just ended
            if word in line:
                found.append(line)
    return found


def groups(word: str) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").glob(f"**/*{word}*") if path.is_dir()]
