"""A store in memory: directories, images, overlays and works without a disk.

Share `files` (absolute path -> bytes occupied) with FakeHypervisor: what the one writes, the other sees. Give it the
hypervisor's `open_paths`, and it knows which images QEMU holds open.
"""

from collections.abc import Callable, Set
from dataclasses import replace

from fakes.faults import Faults, strike
from vmbackup.api import names
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Verify
from vmbackup.core.facts import StoreFacts, Work
from vmbackup.core.steps import (
    Discard,
    MakeDirectory,
    MountDirectory,
    Publish,
    RemoveOverlay,
    StartCopy,
    StartVerification,
    StopWorks,
    StoreStep,
    UnmountDirectory,
)
from vmbackup.errors import Failed
from vmbackup.units import GIB


class FakeStore:
    """`errors[StartCopy] = Failed(...)` raises before the effect, `errors_after[StartCopy]` after it.

    A value may be a list: its errors are raised one after the other, then no more. `work_errors[StartCopy] = "words"`
    makes the work itself fail. A work takes `turns_per_work` observations. `hook(StartCopy, "before" | "after")` is
    called around every effect and may raise, to crash the caller there.
    """

    def __init__(
        self,
        files: dict[str, int] | None = None,
        *,
        open_paths: Set[str] | None = None,
        turns_per_work: int = 2,
    ) -> None:
        self.files: dict[str, int] = {} if files is None else files
        self.directories: set[str] = set()
        self.sets: dict[str, str] = {}  # final path -> UID in its manifest
        self.points_in_time: dict[str, float] = {}
        self.works: dict[tuple[str, int, str], Work] = {}  # by UID, attempt and target
        self.turns_left: dict[tuple[str, int, str], int] = {}
        self.turns_per_work = turns_per_work
        self.problem = ""
        self.away = ""  # why the location cannot even be looked at, for now
        self.silent = False  # it is away because it does not answer
        self.written_at: dict[str, float] = {}  # by path
        self.free_bytes = 100 * GIB
        self.reserve_bytes = 1 * GIB
        self.overlay_free_bytes = 100 * GIB
        self.open_paths: Set[str] = set() if open_paths is None else open_paths  # locked by another process
        self.errors: Faults = {}
        self.errors_after: Faults = {}
        self.work_errors: dict[type[StoreStep], str] = {}
        self.calls: list[StoreStep] = []
        self.hook: Callable[[type[StoreStep], str], None] = lambda _step, _when: None
        self.mounts: dict[str, str] = {}  # what a launcher pod sees: directories outside by their paths inside
        self.observations = 0

    # what tests do to it

    def crash(self) -> None:
        """The agent dies: its works die with it, the files stay."""
        self.works.clear()
        self.turns_left.clear()

    def advance(self, run: Run) -> None:
        """Let the works of a run come one turn further."""
        for key, work in list(self.works.items()):
            if key[:2] == (run.uid, run.attempt) and work.state == "running" and not self._waits(run, key[2], work):
                self.turns_left[key] -= 1
                self.works[key] = self._next(run, key[2], work, self.turns_left[key])

    # the port

    def observe(self, run: Run) -> StoreFacts:
        self.observations += 1
        self.advance(run)
        overlays = {disk.target: self.files[disk.overlay] for disk in run.disks if disk.overlay in self.files}
        if self.away:
            return StoreFacts(
                problem=self.away,
                passing=True,
                silent=self.silent,
                works={key[2]: work for key, work in self.works.items() if key[:2] == (run.uid, run.attempt)},
                overlay_bytes=overlays,
                overlay_free_bytes=self.overlay_free_bytes,
                written_at=self.written_at,
                mounted=run.target_directory in self.mounts,
            )
        return StoreFacts(
            problem=self.problem,
            free_bytes=self.free_bytes,
            reserve_bytes=self.reserve_bytes,
            partial=_partial(run) in self.directories,
            published=self.sets.get(_final(run)) == run.uid,
            works={key[2]: work for key, work in self.works.items() if key[:2] == (run.uid, run.attempt)},
            open_images=frozenset(d.target for d in run.disks if _image(run, d.target) in self.open_paths),
            overlay_bytes=overlays,
            mounted=run.target_directory in self.mounts,
            overlay_free_bytes=self.overlay_free_bytes if any(disk.overlay for disk in run.disks) else None,
            written_at=self.written_at,
        )

    def perform(self, run: Run, step: StoreStep) -> int | None:
        self.calls.append(step)
        self.hook(type(step), "before")
        strike(self.errors, type(step))
        if self.away and isinstance(step, MakeDirectory | Publish | Discard):
            raise Failed(Reason.LOCATION_UNUSABLE, self.away, heals=True)
        self._do(run, step)
        strike(self.errors_after, type(step))
        self.hook(type(step), "after")
        return None

    def _do(self, run: Run, step: StoreStep) -> None:  # noqa: C901, PLR0912 - a table
        match step:
            case MakeDirectory():
                self._stop(run)
                self.directories.add(_partial(run))
                self.files[f"{_partial(run)}/{names.DOMAIN_FILE}"] = 4096
                if run.launcher is not None:
                    self.files.update({_image(run, disk.target): 0 for disk in run.disks})
            case MountDirectory():
                if _partial(run) not in self.directories:
                    raise Failed(Reason.STORE_ERROR, f"{_partial(run)} is missing", heals=True)
                self.mounts[run.target_directory] = _partial(run)
            case UnmountDirectory():
                self.mounts.pop(run.target_directory, None)
            case StartCopy(target):
                self._start(run, target, Work("copy", "running"))
            case StartVerification(target):
                self._start(run, target, Work("verify", "running"))
            case StopWorks():
                self._stop(run)
            case RemoveOverlay(target):
                overlay = run.disk(target).overlay
                if names.overlay_uid(overlay.rpartition("/")[2]) != run.uid:
                    raise Failed(Reason.STORE_ERROR, f"{overlay!r} is not an overlay of this backup")
                if overlay in self.open_paths:
                    raise Failed(Reason.STORE_ERROR, f"{overlay} is open in another process")
                self.files.pop(overlay, None)
            case Publish(point_in_time):
                self._publish(run, point_in_time)
                self._stop(run)
            case Discard():
                self._stop(run)
                self.directories.discard(_partial(run))
                for path in [path for path in self.files if path.startswith(_partial(run) + "/")]:
                    del self.files[path]

    def _start(self, run: Run, target: str, work: Work) -> None:
        key = (run.uid, run.attempt, target)
        old = self.works.get(key)
        if old is not None and old.state == "running":
            if old.kind != work.kind:
                raise Failed(Reason.STORE_ERROR, f"VM {run.domain}, disk {target}: a {old.kind} runs already")
            return
        if work.kind == "copy" and _partial(run) in self.directories:
            self.files[_image(run, target)] = 0
        self.works[key] = work
        self.turns_left[key] = self.turns_per_work

    def _stop(self, run: Run) -> None:
        for key in [key for key in self.works if key[0] == run.uid]:
            del self.works[key]

    def _waits(self, run: Run, target: str, work: Work) -> bool:
        return work.kind == "verify" and _image(run, target) in self.open_paths

    def _next(self, run: Run, target: str, work: Work, turns_left: int) -> Work:
        step: type[StoreStep] = StartCopy if work.kind == "copy" else StartVerification
        if step in self.work_errors:
            return replace(work, state="failed", error=self.work_errors[step])
        image = _image(run, target)
        if image not in self.files:
            return replace(work, state="failed", error="No such file or directory")
        if work.kind == "copy":
            whole = run.disk(target).allocated_bytes
            self.files[image] = whole * (self.turns_per_work - turns_left) // self.turns_per_work
        if turns_left > 0:
            return replace(work, bytes_done=self.files[image])
        digest = "0" * 64 if work.kind == "verify" and run.spec.verify is Verify.CHECKSUM else ""
        stored = self.files[image]
        return replace(work, state="done", bytes_done=stored, stored_bytes=stored, sha256=digest)

    def _publish(self, run: Run, point_in_time: float) -> None:
        final, partial = _final(run), _partial(run)
        if self.sets.get(final) == run.uid:
            return
        if final in self.sets:
            raise Failed(Reason.PUBLISH_FAILED, f"{final} exists and is not of this backup")
        if partial not in self.directories:
            raise Failed(Reason.PUBLISH_FAILED, f"{partial} is missing")
        self.files[f"{partial}/{names.MANIFEST_FILE}"] = 4096
        for path in [path for path in self.files if path.startswith(partial + "/")]:
            self.files[final + path.removeprefix(partial)] = self.files.pop(path)
        self.directories.discard(partial)
        self.sets[final] = run.uid
        self.points_in_time[final] = point_in_time


def _partial(run: Run) -> str:
    return f"{run.location_path}/{run.partial_path}"


def _final(run: Run) -> str:
    return f"{run.location_path}/{run.set_path}"


def _image(run: Run, target: str) -> str:
    return f"{_partial(run)}/{run.disk(target).image}"
