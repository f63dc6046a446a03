"""`vmbackup-operator inspect`: what is under way on this node, in plain words. Changes nothing.

Exit codes: 0 nothing needs a human, 1 something does, 2 the daemon could not be asked.
"""

import json
import posixpath
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.console import Console

from vmbackup.api import names
from vmbackup.api.journal import Freeze, Run
from vmbackup.api.restore import RestoreKind
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome, Phase
from vmbackup.core.facts import DiskFacts, DomainFacts
from vmbackup.errors import VMBackupError
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.store.journal import read_runs
from vmbackup.store.leftovers import leftover_words
from vmbackup.store.mounts import Mount, Mounts
from vmbackup.store.restore_journal import read_restores

Kind = Literal["run", "restore", "debt", "debris", "frozen", "stranger", "stranded", "orphan", "mount", "broken record"]
NEEDS_A_HUMAN = frozenset({"stranded", "orphan", "broken record"})


class Finding(NamedTuple):
    kind: Kind
    vm: str
    what: str
    advice: str


def inspect(connect: str, state: Path, locations: Sequence[Path] = ()) -> list[Finding]:
    """Return what there is to know, also of the given locations. Raises: NotYet: the daemon is away."""
    runs, broken = read_runs(state)
    restores, broken_restores = read_restores(state)
    broken += broken_restores
    findings = [_run(run) for run in runs]
    findings += [_restore(run) for run in restores]
    look = "Keep the file; look whether a VM is on an overlay (virsh domblklist)."
    findings += [Finding("broken record", "", f"{path} cannot be read", look) for path in broken]
    findings += [finding for run in runs for finding in _debts(run)]
    findings += [_mount(mount) for mount in Mounts().every() if mount.backup_uid not in {run.uid for run in runs}]
    for location in locations:
        words = leftover_words(str(location), time.time())
        if words:
            findings.append(Finding("debris", "", words, "No agent removes them; see docs/operations.md."))
    hypervisor = Libvirtd(connect)
    for vm in hypervisor.vms():
        try:
            findings += _traces(hypervisor.find(vm.domain), runs)
        except VMBackupError as error:
            findings.append(Finding("stranger", vm.domain, f"cannot be looked at: {error.message}", "Try again."))
    return findings


def _run(run: Run) -> Finding:
    if run.debris:
        what = f"backup {run.key} is over, its unfinished set {run.location_path}/{run.partial_path} is left"
        return Finding("debris", run.domain, what, "The agent removes it when the location can be used again.")
    if run.outcome is Outcome.STRANDED and run.phase is Phase.DONE:
        return _stranded(run)
    where = f"backup {run.key} ({run.method}), attempt {run.attempt}, phase {run.phase}"
    fate = f", will end as {run.outcome}: {run.failure.message if run.failure else ''}" if run.outcome else ""
    advice = "The agent works on it; it goes on after a restart."
    return Finding("run", run.domain, f"{where}{fate}{f'; {run.trouble}' if run.trouble else ''}", advice)


def _restore(run: RestoreRun) -> Finding:
    where = f"restore {run.key} ({run.kind}) of set {run.set_path}, phase {run.phase}"
    fate = f", will end as {run.outcome}" if run.outcome else ""
    keep = " Keep the set: the VM runs on it." if run.kind is RestoreKind.INSTANT else ""
    trouble = f"; {run.trouble}" if run.trouble else ""
    return Finding("restore", run.label, f"{where}{fate}{trouble}", f"The agent works on it.{keep}")


def _stranded(run: Run) -> Finding:
    overlays = ", ".join(disk.overlay for disk in run.disks if disk.overlay)
    what = f"backup {run.key} left its overlays to you: {run.failure.message if run.failure else overlays}"
    advice = f"Keep {overlays} and what lies below until you know which is right; see docs/operations.md."
    return Finding("stranded", run.domain, what, advice)


def _debts(run: Run) -> Iterator[Finding]:
    if run.on_overlay:
        overlays = ", ".join(disk.overlay for disk in run.disks)
        yield Finding(
            "debt", run.domain, f"is on overlays of ours: {overlays}", "The agent merges them; keep the files."
        )
    if run.freeze in (Freeze.INTENDED, Freeze.FROZEN):
        advice = f"The agent thaws it; by hand: virsh domfsthaw {run.domain}"
        yield Finding("frozen", run.domain, "its file systems may be frozen", advice)


def _mount(mount: Mount) -> Finding:
    what = f"launcher pod {mount.pod_uid} is shown {mount.set_path}, unfinished, of a backup without a record"
    return Finding("mount", "", what, "The agent takes it away within a minute.")


def _traces(domain: DomainFacts, runs: tuple[Run, ...]) -> Iterator[Finding]:
    known = {run.uid for run in runs}
    for disk in domain.disks:
        uid = names.overlay_uid(posixpath.basename(disk.source))
        if uid and uid not in known:
            yield Finding(
                "orphan",
                domain.name,
                f"disk {disk.target} is on {disk.source}, the overlay of a backup that the journal does not know",
                "The agent merges it while the VM runs: start the VM, and the agent.",
            )
        yield from _buried(domain, disk)
        if disk.job is not None and disk.job.kind != "backup" and not uid:
            yield Finding("stranger", domain.name, f"a {disk.job.kind} block job on disk {disk.target}", "Not ours.")
    paths = list(domain.job.targets.values()) if domain.job else []
    ours = any(f".{uid}." in path for uid in known for path in paths)
    if domain.job is not None and not ours:
        yield Finding("stranger", domain.name, f"a {domain.job.operation} job runs", "Not ours: backups wait for it.")


def _buried(domain: DomainFacts, disk: DiskFacts) -> Iterator[Finding]:
    """Tell of an overlay of ours below somebody else's layer: the backup is over, and no journal speaks of it."""
    for layer in disk.backing:
        if names.overlay_uid(posixpath.basename(layer.path)):
            yield Finding(
                "orphan",
                domain.name,
                f"disk {disk.target} is on {disk.source}, a layer of somebody else's above our overlay {layer.path}",
                f"Keep all files. Merge that layer (virsh blockcommit {domain.name} {disk.target} --active --shallow "
                "--pivot); then the agent takes the VM home by itself.",
            )


def main(console: Console, *, connect: str, state: Path, as_json: bool, locations: Sequence[Path] = ()) -> int:
    try:
        findings = inspect(connect, state, locations)
    except VMBackupError as error:
        console.print(error.message, markup=False)
        return 2
    if as_json:
        console.print_json(json.dumps([finding._asdict() for finding in findings]))
    elif not findings:
        console.print("Nothing is under way on this node, and nothing of ours is on a VM.")
    else:
        for finding in findings:
            console.print(f"{finding.kind:13} {finding.vm or '-'}: {finding.what}", markup=False, soft_wrap=True)
            if finding.advice:
                console.print(f"{'':13} → {finding.advice}", markup=False, soft_wrap=True)
    return 1 if any(finding.kind in NEEDS_A_HUMAN for finding in findings) else 0
