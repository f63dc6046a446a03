"""The RestoreStore port on directories of this node: sets in locations, restored images in the node's own directory."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from vmbackup.api.conditions import Reason
from vmbackup.api.restore import RestoreKind
from vmbackup.api.restore_journal import LIVE_KINDS, RestoreDisk, RestoreRun
from vmbackup.api.vmbackup import Verify
from vmbackup.core.ports import Wake
from vmbackup.core.restore_facts import (
    Flatten,
    Place,
    Prepare,
    Release,
    RemoveFiles,
    RestoreFiles,
    RestoreStoreStep,
    Swap,
    SwapBack,
    WriteProof,
)
from vmbackup.core.steps import StartCopy, StartVerification, StopWorks
from vmbackup.errors import Failed, NotYet, Refused, VMBackupError
from vmbackup.store import holds, proofs, restored, swapping
from vmbackup.store.asking import Asker
from vmbackup.store.copying import copy_layers
from vmbackup.store.paths import below, create_file, location_directory, open_file
from vmbackup.store.sources import Layer
from vmbackup.store.space import reserve_bytes, words_of
from vmbackup.store.verifying import Expected, verify_content
from vmbackup.store.works import Result, Task, Works

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM)
TAIL_BYTES = 8192


class RestoreDirectories:
    """Sets are read, images are made: nothing that exists is overwritten but in place, and there by one rename."""

    def __init__(self, *, wake: Wake, now: Callable[[], float] = time.time) -> None:
        self._works = Works(wake)
        self._asker = Asker()
        self._now = now

    def set_xml(self, run: RestoreRun) -> str:
        """Return the VM's definition as the set has it. Raises: Failed, Refused: it cannot be read."""
        try:
            with location_directory(run.location_path) as location, below(location, run.set_path) as directory:
                return restored.read_domain_xml(directory)
        except (OSError, UnicodeDecodeError) as error:
            raise Failed(Reason.SET_BROKEN, f"set {run.set_path}: its domain.xml cannot be read: {error}") from error

    def observe(self, run: RestoreRun) -> RestoreFiles:
        seen = RestoreFiles(works=self._works.facts(run))
        try:
            self._asker.ask(run.location_path, lambda: self._look_at_set(run))
        except VMBackupError as error:
            seen = replace(seen, problem=error.message)
        except OSError as error:
            seen = replace(seen, problem=words_of(f"{run.location_path}/{run.set_path}", error))
        try:
            return self._with_images(run, seen)
        except VMBackupError as error:
            return replace(seen, problem=error.message)
        except OSError as error:
            return replace(seen, problem=words_of(run.images_path, error))

    def perform(self, run: RestoreRun, step: RestoreStoreStep) -> None:
        try:
            self._do(run, step)
        except NotYet as wait:
            raise Failed(wait.reason, f"{run.label}: {wait.message}", heals=True) from wait
        except OSError as error:
            raise _failed(run, step, error) from error

    def _do(self, run: RestoreRun, step: RestoreStoreStep) -> None:  # noqa: C901 - a table
        match step:
            case Prepare():
                self._prepare(run)
            case StartCopy(target):
                disk = run.disk(target)
                place = f"{run.location_path}/{run.set_path}/{disk.image} to {run.working_file(disk)}"
                self._works.start(run, target, "copy", lambda task: self._copy(task, run, disk), place)
            case StartVerification(target):
                self._works.start(run, target, "verify", lambda task: self._verify(task, run, run.disk(target)))
            case StopWorks():
                self._works.stop(run)
            case Place():
                self._works.stop(run)
                with _images(run) as images:
                    restored.place_directory(images, run)
            case Swap(target):
                swapping.swap(run, run.disk(target))
            case SwapBack(target):
                swapping.swap_back(run, run.disk(target))
            case Release():
                self._release(run)
            case RemoveFiles():
                self._remove(run)
            case Flatten(target):
                self._works.start(run, target, "copy", lambda task: self._flatten(task, run, run.disk(target)))
            case WriteProof():
                with location_directory(run.location_path) as location, below(location, run.set_path) as directory:
                    proofs.write(directory, run, self._now())

    def _look_at_set(self, run: RestoreRun) -> None:
        with location_directory(run.location_path) as location, below(location, run.set_path):
            pass

    def _with_images(self, run: RestoreRun, seen: RestoreFiles) -> RestoreFiles:
        if run.kind is RestoreKind.IN_PLACE:
            swapped = [disk for disk in run.disks if swapping.is_swapped(run, disk)]
            used = frozenset(disk.target for disk in swapped if swapping.is_old_used(run, disk))
            return replace(seen, swapped=frozenset(disk.target for disk in swapped), used=used)
        with _images(run) as images:
            return replace(
                seen,
                working=restored.directory_state(images, run, run.partial_path) == "ours",
                placed=restored.directory_state(images, run, run.directory) == "ours",
                flat=restored.flat_images(images, run) if run.kind is RestoreKind.INSTANT else frozenset(),
                serial_tail=_serial_tail(images, run) if run.kind is RestoreKind.PROOF else "",
            )

    def _prepare(self, run: RestoreRun) -> None:
        self._works.stop(run)
        with ExitStack() as opened:
            location = opened.enter_context(location_directory(run.location_path))
            try:
                directory = opened.enter_context(below(location, run.set_path))
                restored.check_set(directory, run)
                _protect(directory, run)
                # Whoever removes sets renames first and looks for holds then: one of us sees the other.
                opened.enter_context(below(location, run.set_path))
            except FileNotFoundError:
                raise Refused(Reason.SET_NOT_FOUND, f"set {run.set_path} is gone from {run.location_path}.") from None
            self._check_space(run)
            if run.kind is RestoreKind.IN_PLACE:
                for disk in run.disks:
                    swapping.check_own_disk(run, disk)
                return
            images = opened.enter_context(_images(run))
            restored.make_directory(images, run, directory)

    def _check_space(self, run: RestoreRun) -> None:
        """Raises: Refused: the images would not fit."""
        if run.kind is RestoreKind.PROOF:
            return
        needed: dict[str, int] = {}
        for disk in run.disks:
            place = os.path.dirname(disk.file) if run.kind is RestoreKind.IN_PLACE else run.images_path
            needed[place] = needed.get(place, 0) + disk.allocated_bytes
        for place, bytes_ in needed.items():
            space = os.statvfs(place)
            free = space.f_bavail * space.f_frsize
            reserve = reserve_bytes(run.min_free, space.f_blocks * space.f_frsize)
            if free - reserve < bytes_:
                raise restored.too_little(free, reserve, bytes_, place)

    def _copy(self, task: Task, run: RestoreRun, disk: RestoreDisk) -> Result:
        with ExitStack() as opened:
            source = self._open_source(opened, run, disk)
            path = run.working_file(disk)
            directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, directory)
            name = os.path.basename(path)
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)  # what an earlier process of ours has begun
            image = create_file(directory, name)
            opened.callback(os.close, image)
            layer = Layer(source, disk.image, disk.image_format, is_block=False)
            return copy_layers(task, (layer,), image, disk.format, run.spec.limit_bytes_per_second)

    def _verify(self, task: Task, run: RestoreRun, disk: RestoreDisk) -> Result:
        """Verify the copy; the set's own image where there is none, or its digest says nothing of a converted copy."""
        wanted, limit = proofs.verified(run), run.spec.limit_bytes_per_second
        if run.kind is RestoreKind.INSTANT and wanted is Verify.CHECKSUM:
            wanted = Verify.CHECK  # reading all of it would take as long as bringing it
        from_set = Expected(disk.image, disk.image_format, disk.virtual_bytes)
        with ExitStack() as opened:
            if run.kind in LIVE_KINDS or run.kind is RestoreKind.PROOF:
                source = self._open_source(opened, run, disk)
                return _with_digest(disk, verify_content(task, from_set, source, wanted, limit), wanted)
            image = os.open(run.working_file(disk), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            opened.callback(os.close, image)
            copy = Expected(os.path.basename(disk.file), disk.format, disk.virtual_bytes)
            if disk.format == disk.image_format:
                return _with_digest(disk, verify_content(task, copy, image, wanted), wanted)
            source = self._open_source(opened, run, disk)
            _with_digest(disk, verify_content(task, from_set, source, wanted), wanted)
            return verify_content(task, copy, image, Verify.CHECK if wanted is Verify.CHECKSUM else wanted)

    def _flatten(self, task: Task, run: RestoreRun, disk: RestoreDisk) -> Result:
        with location_directory(run.location_path) as location, below(location, run.set_path), _images(run) as images:
            return restored.flatten(task, images, run, disk)

    def _open_source(self, opened: ExitStack, run: RestoreRun, disk: RestoreDisk) -> int:
        location = opened.enter_context(location_directory(run.location_path))
        directory = opened.enter_context(below(location, run.set_path))
        image = open_file(directory, disk.image)
        opened.callback(os.close, image)
        return image

    def _release(self, run: RestoreRun) -> None:
        self._works.stop(run)
        if run.kind is RestoreKind.IN_PLACE:
            keep = run.spec.target.in_place is not None and run.spec.target.in_place.keep_old_disks
            for disk in run.disks:
                swapping.remove_old(run, disk, keep=keep)
        else:
            with _images(run) as images:
                restored.release_directory(images, run)
        self._let_go(run)

    def _remove(self, run: RestoreRun) -> None:
        self._works.stop(run)
        if run.kind is RestoreKind.IN_PLACE:
            for disk in run.disks:
                swapping.remove_new(run, disk)
        else:
            with suppress(Refused), _images(run) as images:
                restored.remove_directory(images, run, run.partial_path)
                restored.remove_directory(images, run, run.directory)
        self._let_go(run)

    def _let_go(self, run: RestoreRun) -> None:
        try:
            with location_directory(run.location_path) as location, below(location, run.set_path) as directory:
                if run.kind in LIVE_KINDS:
                    restored.reseal(directory, run)
                holds.release(directory, run.uid)
        except FileNotFoundError:
            return  # the set is gone
        except Refused as away:
            raise Failed(away.reason, f"the protection of {run.set_path} stays: {away.message}", heals=True) from away


@contextmanager
def _images(run: RestoreRun) -> Iterator[int]:
    """Open the node's directory for restored images. Raises: Refused: it is unusable. OSError."""
    try:
        with location_directory(run.images_path) as images:
            yield images
    except Refused as unusable:
        if unusable.reason != Reason.LOCATION_UNUSABLE:
            raise
        words = f"the directory for restored images (--images of the agent): {unusable.message}"
        raise Refused(Reason.TARGET_UNSUPPORTED, words) from unusable


def _protect(directory: int, run: RestoreRun) -> None:
    """Mark the set as in use. A copy can do without where the location is read-only: it is verified at its end.

    Raises: Refused: a guest is to run on a set that cannot be protected. OSError.
    """
    try:
        holds.hold(directory, run.uid, run.key, run.node)
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        if run.kind in LIVE_KINDS and run.domain:
            raise Refused(
                Reason.LOCATION_UNUSABLE,
                f"{run.location_path} is read-only on this node, so the set cannot be protected while a guest runs on "
                "it; use newDomain, which copies it first.",
            ) from error


def _with_digest(disk: RestoreDisk, result: Result, wanted: Verify) -> Result:
    """Raises: Failed: the image is not what was backed up."""
    if wanted is Verify.CHECKSUM and result.sha256 != disk.sha256:
        raise Failed(
            Reason.VERIFICATION_FAILED,
            f"{disk.image}: its SHA-256 is {result.sha256}, the manifest says {disk.sha256}: the set is broken",
        )
    return result


def _serial_tail(images: int, run: RestoreRun) -> str:
    with suppress(FileNotFoundError, Failed), below(images, run.partial_path) as directory:
        file = open_file(directory, restored.SERIAL_FILE)
        try:
            start = max(0, os.fstat(file).st_size - TAIL_BYTES)
            text = os.pread(file, TAIL_BYTES, start).decode(errors="replace")
            return "".join(char for char in text if char.isprintable() or char in "\n\t")
        finally:
            os.close(file)
    return ""


def _failed(run: RestoreRun, step: RestoreStoreStep, error: OSError) -> Failed:
    words = f"{run.label}: {type(step).__name__}: {error.filename or ''} {error.strerror or error}"
    if error.errno in NO_ROOM:
        return Failed(Reason.NO_SPACE, f"{words}; free space on this node")
    return Failed(Reason.STORE_ERROR, f"{words}; look at the file system and the kernel's log on this node", heals=True)
