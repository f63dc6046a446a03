"""The sides that are measured. Each does one whole backup of the VM and ends when all that it wrote is on disk."""

import itertools
import sys
import time
from pathlib import Path

from stage import DOMAIN, LOCATION, NAMESPACE, SIDE_SECONDS, VM, Stage, run

from vmbackup.api.vmbackup import Outcome, Phase, VMBackupStatus
from vmbackup.display import message
from vmbackup.standalone import Settings, Standalone, read_request

VERSION = "vmbackup.dev/v1alpha1"


def write_request(path: Path, name: str, method: str, vm: str = VM) -> Path:
    """Write a VMBackup of a VM; all but the method is left at its default (verify: Check)."""
    path.write_text(
        f"apiVersion: {VERSION}\nkind: VMBackup\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n"
        f"spec: {{source: {{name: {vm}}}, location: {LOCATION}, method: {method}}}\n"
    )
    return path


class Engine:
    """Our engine in this process, from the request to the published set.

    `phases`: seconds in each phase, by run. `troubles`: why an attempt failed that was followed by another.
    """

    def __init__(self, stage: Stage, method: str) -> None:
        self._stage, self._method = stage, method
        self.phases: list[dict[str, float]] = []
        self.troubles: list[str] = []

    def __call__(self) -> None:
        stage = self._stage
        request = read_request(write_request(stage.state / "request.yaml", "bench", self._method))
        settings = Settings(
            request=stage.state / "request.yaml",
            location=stage.sets,
            connect=stage.uri,
            state=stage.state / "standalone",
            min_free="1%",
            allow_monitor=False,
        )
        seen: list[tuple[float, str]] = [(time.perf_counter(), "Planning")]

        def listen(_key: str, status: VMBackupStatus) -> None:
            if status.phase != seen[-1][1]:
                seen.append((time.perf_counter(), str(status.phase)))
                if status.phase is Phase.ASSIGNED:
                    self.troubles.append(message(status))

        standalone = Standalone(settings, request, listen)
        outcome = standalone.run()
        if outcome is not Outcome.SUCCEEDED:
            raise RuntimeError(f"the engine's {self._method} ended as {outcome}: {standalone.status.conditions}")
        seen.append((time.perf_counter(), ""))
        self.phases.append({name: end - start for (start, name), (end, _) in itertools.pairwise(seen)})


class CommandLine:
    """The same by `vmbackup-operator run`, start of the process included."""

    def __init__(self, stage: Stage, method: str) -> None:
        self._stage, self._method = stage, method

    def __call__(self) -> None:
        stage = self._stage
        request = write_request(stage.state / "request.yaml", "bench", self._method)
        where = ("--location", str(stage.sets), "--connect", stage.uri, "--state", str(stage.state / "standalone"))
        run([sys.executable, "-m", "vmbackup", "run", "-f", str(request), *where, "--min-free", "1%"])


class Virsh:
    """`virsh backup-begin`, the event that it is done, and fsync. One virsh for both: the fastest way there is."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self) -> None:
        work = self._stage.work
        image, request = work / "vda.qcow2", work / "backup.xml"
        request.write_text(
            f"<domainbackup><disks><disk name='vda' type='file'><target file='{image}'/><driver type='qcow2'/></disk>"
            "</disks></domainbackup>"
        )
        ended = f"event {DOMAIN} job-completed --timeout {SIDE_SECONDS}"
        run(["virsh", "-q", "-c", self._stage.uri, f"backup-begin {DOMAIN} {request}; {ended}"])
        run(["sync", str(image)])


class Virtnbdbackup:
    """`virtnbdbackup -l copy`, and fsync of every file that it made."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self) -> None:
        output = self._stage.work / "nbd"
        # Inside the daemon's namespace: with a URI that names a socket it insists on a password.
        scratch = ("-S", str(self._stage.work))
        self._stage.host.run("virtnbdbackup", "-d", DOMAIN, "-l", "copy", "-n", "-o", str(output), *scratch)
        run(["sync", *(str(path) for path in output.rglob("*") if path.is_file())])


SCRIPT = """
set -e
virsh -q -c "$1" snapshot-create-as "$2" bench --disk-only --no-metadata --atomic --diskspec vda,file="$3/overlay"
cp --sparse=always "$4" "$3/vda.qcow2"
virsh -q -c "$1" blockcommit "$2" vda --active --pivot
rm "$3/overlay"
sync "$3/vda.qcow2"
"""


class Script:
    """Snapshot, copy, commit and pivot as a shell script does it, and fsync of the copy."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __call__(self) -> None:
        stage = self._stage
        run(["sh", "-c", SCRIPT, "sh", stage.uri, DOMAIN, str(stage.work), str(stage.disk)])
