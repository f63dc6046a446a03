"""The development cluster: started, shown and taken down by `make up`, `make env` and `make down`."""

import contextlib
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from testbed.boot import boot_files
from testbed.cache import cache_directory, say
from testbed.errors import TestbedError
from testbed.namespace import UNSHARE, end
from testbed.tools import tool

UP_SECONDS = 240
MARK = ".vmbackup-operator-dev"  # a directory without it is somebody else's and is never removed
DOWN_HINT = "`make down` removes what is left."


def state_directory() -> Path:
    """Return the directory of the development cluster; VMBACKUP_DEV_DIR overrides the default."""
    return Path(os.environ.get("VMBACKUP_DEV_DIR", "/var/tmp/vmbackup-operator-dev")).resolve()


def up(*, with_operator: bool = True) -> None:
    """Start the cluster and return when all of it is Ready; does nothing when it is.

    Without the operator, only control plane, hypervisor and guests run: start controller and agent yourself.
    Raises TestbedError when a part does not come up.
    """
    if os.geteuid():
        raise TestbedError("The development cluster needs root: use sudo.")
    tool("kube-apiserver")  # built here, because it takes minutes
    tool("kubectl")
    state = state_directory()
    with _lock():
        if running():
            say(f"already up in {state}")
            return
        _remove(state)
        state.mkdir(parents=True)
        (state / MARK).touch()
        for name in ("log", "backups", "guest"):
            (state / name).mkdir(parents=True)
        boot_files(state / "guest")
        _start_holder(state, with_operator)
    say(f'ready in {state}; next: eval "$(make env)"')


def down() -> None:
    """End every process of the cluster and remove its files; the cache of programs stays."""
    with _lock():
        state = state_directory()
        pid = _holder(state)
        if pid:
            end(pid)
        _remove(state)


def running() -> bool:
    """Return whether the cluster is up and was Ready once."""
    state = state_directory()
    return _holder(state) is not None and (state / "ready.json").exists()


def environment() -> dict[str, str]:
    """Return the variables that make kubectl, virsh and the samples use the cluster.

    Raises TestbedError when it is not up.
    """
    if not running():
        raise TestbedError("The development cluster is not up: run `make up`.")
    values: dict[str, str] = json.loads((state_directory() / "ready.json").read_text())
    return values


def exports() -> str:
    """Return shell lines for eval. Raises TestbedError when the cluster is not up."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment().items()]
    return "\n".join([*lines, f'export PATH={shlex.quote(str(tool("kubectl").parent))}:"$PATH"'])


def _start_holder(state: Path, with_operator: bool) -> None:
    """Start the process that holds everything and wait until it says that all is Ready."""
    log = state / "log" / "holder.log"
    command = [*UNSHARE, sys.executable, "-u", "-m", "testbed.holder", str(state), *([] if with_operator else ["bare"])]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=state,
            env=os.environ | {"PYTHONPATH": _python_path()},
            start_new_session=True,
        )
    (state / "holder.json").write_text(json.dumps({"pid": process.pid, "started": _started(process.pid)}))
    deadline = time.monotonic() + UP_SECONDS
    with log.open() as lines:
        while not (state / "ready.json").exists():
            sys.stderr.write(lines.read())
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                end(process.pid)
                sys.stderr.write(lines.read())
                reason = "a part failed" if ended else f"not Ready after {UP_SECONDS} s"
                raise TestbedError(f"The cluster did not come up: {reason}. Logs are in {state}/log; {DOWN_HINT}")
            time.sleep(0.1)
        sys.stderr.write(lines.read())


def _python_path() -> str:
    """Return PYTHONPATH for processes that import testbed and vmbackup."""
    development = Path(__file__).resolve().parent.parent
    return f"{development}:{development.parent / 'operator'}"


def _holder(state: Path) -> int | None:
    """Return the PID of the running holder, or None."""
    try:
        recorded = json.loads((state / "holder.json").read_text())
        pid = int(recorded["pid"])
        return pid if _started(pid) == recorded["started"] else None
    except (OSError, ValueError, KeyError):
        return None


def _started(pid: int) -> str:
    """Return when a process was started, in clock ticks: a PID may be used again. Raises OSError when it is gone."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if words[0] in "ZX":
        raise ProcessLookupError(pid)
    return words[19]


def _remove(state: Path) -> None:
    """Remove the state directory, which must be ours. Raises TestbedError when it is something else."""
    if state.exists() and any(state.iterdir()) and not (state / MARK).exists():
        raise TestbedError(f"{state} is not a directory of the development cluster: set VMBACKUP_DEV_DIR to another.")
    if state.exists():
        shutil.rmtree(state)


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """Keep two of `up` and `down` from running at once."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "cluster.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
