"""Images that a launcher pod writes into: made before the job, each the size of its disk and the pod's to write.

Nothing else in the directory can be written, made or removed by a pod whose daemon is not root. It also serves
libvirt before 11.1 without its file backend, which cannot make images itself (as in KubeVirt up to 1.7).
"""

import os
from contextlib import suppress

from vmbackup.api.conditions import Reason
from vmbackup.api.journal import Launcher, Run, RunDisk
from vmbackup.errors import Failed
from vmbackup.store.children import Limits, run_child
from vmbackup.store.paths import create_file
from vmbackup.units import GIB

# What an empty qcow2 of the largest size occupies: its first table has 8 bytes for 512 MiB.
EMPTY_BYTES_MAX = GIB


def make_targets(partial: int, run: Run, launcher: Launcher) -> None:
    """Make an empty image for every disk, in place of what an earlier try has left.

    Raises: Failed: qemu-img refused. OSError: the file system did.
    """
    for disk in run.disks:
        with suppress(FileNotFoundError):
            os.unlink(disk.image, dir_fd=partial)
        image = create_file(partial, disk.image)
        try:
            _format(run, disk, image)
            os.fchown(image, launcher.owner_uid, launcher.owner_gid)
        finally:
            os.close(image)


def _format(run: Run, disk: RunDisk, image: int) -> None:
    ended = run_child(
        ["qemu-img", "create", "-q", "-f", disk.image_format, f"/proc/self/fd/{image}", str(disk.virtual_bytes)],
        files=(image,),
        limits=Limits(cpu_seconds=60, file_bytes=EMPTY_BYTES_MAX),
        started=lambda _: None,
    )
    if ended.error or ended.code:
        words = ended.error or f"qemu-img create ended with code {ended.code}: {ended.last_words}"
        raise Failed(Reason.STORE_ERROR, f"VM {run.domain}, disk {disk.target}: its empty image was not made: {words}")
