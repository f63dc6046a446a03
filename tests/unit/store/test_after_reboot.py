"""A node that went down takes with it what was not on disk: an image of which that is not certain is no copy."""

import pytest

from fakes.sample import ended, partial_of
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Method
from vmbackup.core.steps import MakeDirectory, StartVerification
from vmbackup.store.clock import boot_id
from vmbackup.store.directories import Directories


@pytest.mark.parametrize(
    ("method", "boot", "trusted"),
    [
        (Method.PUSH, "this", True),
        (Method.PUSH, "the one before", False),
        (Method.SNAPSHOT, "the one before", True),
    ],
)
def test_push_image_of_a_boot_before_is_not_trusted(
    store: Directories, run: Run, method: Method, boot: str, trusted: bool
) -> None:
    """libvirt says that the job is done before QEMU has synced it. What we copy ourselves we sync ourselves, before."""
    instance = f"{boot_id() if boot == 'this' else '0f8fad5b'}.1000.5"
    run = run.model_copy(update={"method": method, "instance": instance})
    store.perform(run.model_copy(update={"method": Method.PUSH}), MakeDirectory())
    (partial_of(run) / "vda.img").write_bytes(b"\0" * run.disks[0].virtual_bytes)
    store.perform(run, StartVerification("vda"))
    work = ended(store, run)
    assert (work.state == "done") is trusted, work
    assert trusted or "the node was restarted" in work.error
