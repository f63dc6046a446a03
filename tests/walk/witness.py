"""Watches a walk from inside the guest: what was written where, and whether anything of it is lost or torn."""

from typing import Any

from fakes.disks import FakeDisk
from vmbackup.api.vmbackup import Method
from vmbackup.core.steps import Publish, RemoveOverlay, StartCommit, StartCopy
from walk.world import World

WRITTEN_BYTES = 512 * 1024


class Witness:
    """Its guest writes in every turn. It raises when a move would lose what was written, or publish a torn copy.

    `pending`: overlays with writes that their base misses. `split`: bases that were written beside such an overlay.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.pending: set[str] = set()
        self.split: set[str] = set()
        self._versions: dict[str, int] = {}  # by base: how often it was written
        self._frozen_at: dict[str, int] = {}  # by target: its base's version at the snapshot
        self._torn: set[str] = set()
        for port in (world.hypervisor, world.store):
            port.hook = self._hook(port, port.hook)
        domain: Any = world.domain
        domain.take_snapshot = self._after(domain.take_snapshot, self._snapshot_taken)
        domain.pivot = self._after(domain.pivot, self._pivoted)

    def write(self) -> None:
        """Let the guest, and a commit that runs, write for a moment."""
        domain = self._world.domain
        for disk in domain.disks:
            base = self._world.sources[disk.target]
            if disk.job is not None and disk.job.kind == "active-commit":
                self._base_written(disk, base)
            if not domain.alive or domain.guest.frozen or domain.paused:
                continue
            if disk.source == base:
                self._base_written(disk, base)
                if any(self._world.hypervisor.images[path].backing == base for path in self.pending):
                    self.split.add(base)
            else:
                self.pending.add(disk.source)
                self._world.hypervisor.files[disk.source] += WRITTEN_BYTES

    def _base_written(self, disk: FakeDisk, base: str) -> None:
        self._versions[base] = self._versions.get(base, 0) + 1
        works = self._world.store.works.items()
        if any(key[2] == disk.target and (work.kind, work.state) == ("copy", "running") for key, work in works):
            self._torn.add(disk.target)

    def _hook(self, port: Any, inner: Any) -> Any:
        def hook(call: Any, when: str) -> None:
            if when == "before" and not isinstance(call, str):
                self._before(port.calls[-1])
            inner(call, when)

        return hook

    @staticmethod
    def _after(act: Any, note: Any) -> Any:
        def acted(*arguments: Any, **named: Any) -> None:
            note(act, *arguments, **named)

        return acted

    def _snapshot_taken(self, act: Any, overlays: dict[str, str]) -> None:
        act(overlays)
        self._frozen_at = {target: self._versions.get(self._world.sources[target], 0) for target in overlays}

    def _pivoted(self, act: Any, target: str, *, uid: str) -> None:
        overlay = self._world.domain.disk(target).source
        act(target, uid=uid)
        self.pending.discard(overlay)

    def _before(self, step: object) -> None:
        match step:
            case RemoveOverlay(target):
                domain = self._world.domain
                used = {disk.source if domain.alive else disk.inactive_source for disk in domain.disks}
                overlay = self._world.run_now().disk(target).overlay
                assert overlay not in self.pending, f"{overlay} holds writes that are nowhere else"
                assert overlay not in used, f"{overlay} is in use"
                defined = {disk.inactive_source for disk in domain.disks if domain.persistent}
                assert overlay not in defined, f"the next start would need {overlay}"
            case StartCommit(_, base):
                assert base not in self.split, f"{base} and its overlay went apart; a commit destroys both"
            case StartCopy(target):
                version = self._versions.get(self._world.sources[target], 0)
                self._torn.discard(target)
                if version != self._frozen_at.get(target):
                    self._torn.add(target)
            case Publish() if self._world.run_now().method is Method.SNAPSHOT:
                assert not self._torn, f"the copy of {self._torn} is of no single moment"
