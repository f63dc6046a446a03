"""The Store port on directories of this node: a local disk or a mounted NFS, for many runs at once."""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace

from vmbackup import __version__
from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Method
from vmbackup.core.facts import StoreFacts
from vmbackup.core.ports import Wake
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
from vmbackup.errors import Failed, NotYet, VMBackupError
from vmbackup.store.asking import Asker, Silent
from vmbackup.store.clock import boot_id
from vmbackup.store.copying import copy_disk
from vmbackup.store.locks import is_open
from vmbackup.store.mounts import Mounts
from vmbackup.store.overlays import (
    make_overlay_directory,
    overlay_bytes,
    overlay_free_bytes,
    remove_overlay,
    written_at,
)
from vmbackup.store.paths import below, create_file, location_directory, open_file
from vmbackup.store.publishing import Publisher, publish_set
from vmbackup.store.sets import NVRAM_BYTES_MAX, discard_leftovers, discard_set, is_ours, make_set, read_host_file
from vmbackup.store.sources import open_chain, try_sources
from vmbackup.store.space import read_only_words, reserve_bytes, words_of, writable
from vmbackup.store.verifying import verify_image
from vmbackup.store.works import Result, Task, Works

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
LASTING = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)  # what no server that comes back will mend


class Directories:
    """The locations of this node and the overlays of its VMs.

    A location that does not answer never holds up the way home of a VM: looking at it is bounded, and copies run in
    threads of their own. Making, publishing and discarding a set do wait for it; the VM is not touched then.
    """

    def __init__(  # noqa: PLR0913 - called once
        self,
        *,
        domain_xml: Callable[[Run], str],
        wake: Wake,
        node: str = "",
        image_roots: Sequence[str] = (),
        now: Callable[[], float] = time.time,
        mounts: Mounts | None = None,
        read_pod_file: Callable[[str, str, int], bytes] | None = None,
    ) -> None:
        """Empty `image_roots` allow any path. `node` is for the manifest; its default is this host's name.

        `mounts`, `read_pod_file` (pod UID, path, most bytes): for VMs in launcher pods; without, there are none.
        """
        self._mounts = mounts or Mounts()
        self._read_pod_file = read_pod_file
        self._domain_xml = domain_xml
        self._image_roots = tuple(image_roots)
        self._publisher = Publisher(node or os.uname().nodename, __version__, now)
        self._works = Works(wake)
        self._asker = Asker()

    def observe(self, run: Run) -> StoreFacts:
        seen = StoreFacts(
            works=self._works.facts(run),
            overlay_bytes=overlay_bytes(run),
            overlay_free_bytes=overlay_free_bytes(run),
            mounted=run.launcher is not None and self._mounts.has(run),
            written_at=written_at(run),
        )
        try:
            return self._asker.ask(run.location_path, lambda: self._with_location(run, seen))
        except Silent as error:
            return replace(seen, problem=error.message, passing=True, silent=True)
        except VMBackupError as error:
            return replace(seen, problem=error.message, passing=isinstance(error, NotYet))
        except OSError as error:
            return replace(seen, problem=words_of(run.location_path, error), passing=error.errno not in LASTING)

    def perform(self, run: Run, step: StoreStep) -> int | None:
        try:
            self._do(run, step)
        except NotYet as wait:
            raise Failed(wait.reason, f"VM {run.domain}: {wait.message}", heals=True) from wait
        except OSError as error:
            raise _failed(run, step, error) from error
        return None

    def _with_location(self, run: Run, seen: StoreFacts) -> StoreFacts:
        with location_directory(run.location_path) as location:
            space = os.fstatvfs(location)
            partial = is_ours(location, run, run.partial_path)
            return replace(
                seen,
                problem="" if writable(location) else read_only_words(run.location_path),
                free_bytes=space.f_bavail * space.f_frsize,
                reserve_bytes=reserve_bytes(run.min_free, space.f_blocks * space.f_frsize),
                partial=partial,
                published=is_ours(location, run, run.set_path),
                open_images=frozenset(_open_images(location, run)) if partial else frozenset(),
            )

    def _do(self, run: Run, step: StoreStep) -> None:
        match step:
            case MakeDirectory():
                self._make(run)
            case MountDirectory():
                self._mounts.add(run)
            case UnmountDirectory():
                self._mounts.remove(run)
            case StartCopy(target):
                self._works.start(run, target, "copy", lambda task: self._copy(task, run, run.disk(target)))
            case StartVerification(target):
                self._works.start(run, target, "verify", lambda task: self._verify(task, run, run.disk(target)))
            case StopWorks():
                self._works.stop(run)
            case RemoveOverlay(target):
                remove_overlay(run, target)
            case Publish(point_in_time):
                with location_directory(run.location_path) as location:
                    publish_set(location, run, point_in_time, self._publisher)
                self._works.stop(run)
            case Discard():
                self._works.stop(run)
                with location_directory(run.location_path) as location:
                    discard_set(location, run)
                    discard_leftovers(location, run)

    def _make(self, run: Run) -> None:
        """Make the working directory, after looking whether the disks may be copied at all."""
        self._works.stop(run)
        if run.method is Method.SNAPSHOT:
            for disk in run.disks:
                try_sources(run, disk, self._image_roots)
            make_overlay_directory(run)
        domain_xml = self._domain_xml(run)
        with location_directory(run.location_path) as location:
            discard_leftovers(location, run)
            make_set(location, run, domain_xml, lambda path: self._read_file(run, path))

    def _read_file(self, run: Run, path: str) -> bytes:
        """Read a file that the VM's definition names, where it names it: on this host, or in the VM's pod."""
        if run.launcher is None:
            return read_host_file(path)
        assert self._read_pod_file is not None, "who serves launcher pods gives a way to read in them"
        return self._read_pod_file(run.launcher.pod_uid, path, NVRAM_BYTES_MAX)

    def _copy(self, task: Task, run: Run, disk: RunDisk) -> Result:
        with ExitStack() as opened:
            layers = opened.enter_context(open_chain(disk, self._image_roots))
            location = opened.enter_context(location_directory(run.location_path))
            partial = opened.enter_context(below(location, run.partial_path))
            with suppress(FileNotFoundError):
                os.unlink(disk.image, dir_fd=partial)  # what an earlier process of ours has begun
            image = create_file(partial, disk.image)
            opened.callback(os.close, image)
            return copy_disk(task, run, disk, layers, image)

    def _verify(self, task: Task, run: Run, disk: RunDisk) -> Result:
        _check_same_boot(run, disk)
        with location_directory(run.location_path) as location, below(location, run.partial_path) as partial:
            image = open_file(partial, disk.image)
            try:
                return verify_image(task, run, disk, image)
            finally:
                os.close(image)


def _check_same_boot(run: Run, disk: RunDisk) -> None:
    """See that nothing of a push is lost with the memory of a node that went down.

    libvirt tells the end of the job before QEMU has synced the image; what was copied by us is synced before it counts.
    Raises: Failed: the node was started anew since the run began.
    """
    if run.method is Method.PUSH and not run.instance.startswith(f"{boot_id()}."):
        raise Failed(
            Reason.VERIFICATION_FAILED,
            f"{disk.image}: the node was restarted before the image was on disk for certain",
            heals=True,
        )


def _open_images(location: int, run: Run) -> Iterator[str]:
    """Yield the targets whose image some process has open in QEMU's way."""
    with below(location, run.partial_path) as partial:
        for disk in run.disks:
            with suppress(FileNotFoundError):
                image = open_file(partial, disk.image)
                try:
                    if is_open(image):
                        yield disk.target
                finally:
                    os.close(image)


def _failed(run: Run, step: StoreStep, error: OSError) -> Failed:
    words = f"VM {run.domain}: {type(step).__name__} in {run.location_path} failed: {error.strerror or error}"
    if error.errno in NO_ROOM:
        return Failed(Reason.NO_SPACE, f"{words}; free space in the location")
    return Failed(Reason.STORE_ERROR, f"{words}; look at the file system and the kernel's log on this node", heals=True)
