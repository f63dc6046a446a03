"""The engine on a launcher pod: in a thread of the test, or as a process that dies when it is told to.

Moments are named as in `integration.libvirt.engine`.
"""

import sys
from pathlib import Path

from integration.libvirt.engine import REST_SECONDS, Hook, Hooked, Worker, dying_at, no_hook
from vmbackup.core import ending
from vmbackup.hypervisor.launcher import PodLibvirtd
from vmbackup.hypervisor.pods import read_file
from vmbackup.store.journal import NodeJournal
from vmbackup.store.mounts import Mounts


class _Hypervisor(Hooked, PodLibvirtd):
    pass


class PodEngine(Worker):
    """The engine on the daemon of a launcher pod."""

    def __init__(self, pod_uid: str, kubelet: Path, state: Path, *, hook: Hook = no_hook) -> None:
        super().__init__(_Hypervisor(pod_uid), state, hook, mounts=Mounts(kubelet), read_pod_file=read_file)


def main(kubelet: str, state: str, death: str) -> None:
    """Finish every run of the journal, as an agent does that was just started; die by SIGKILL at a moment."""
    ending.ATTEMPT_REST_SECONDS = REST_SECONDS  # type: ignore[assignment]
    for run in NodeJournal(Path(state)).runs():
        assert run.launcher is not None
        PodEngine(run.launcher.pod_uid, Path(kubelet), Path(state), hook=dying_at(death)).finish(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
