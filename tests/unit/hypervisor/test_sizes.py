"""Sizes from libvirt's block statistics. Numbers as libvirt 9.0 gave them."""

from vmbackup.core.facts import DiskFacts, Image
from vmbackup.hypervisor.observe import Sizes

MIB = 1 << 20
CHAIN = {
    "block.count": 4,
    "block.0.name": "vda", "block.0.path": "/vda.qcow2", "block.0.capacity": 64 * MIB, "block.0.physical": 204800,
    "block.1.name": "vda", "block.1.path": "/golden.qcow2", "block.1.capacity": 64 * MIB, "block.1.physical": 40 * MIB,
    "block.2.name": "vdb", "block.2.path": "/dev/loop0", "block.2.capacity": 64 * MIB, "block.2.physical": 0,
    "block.3.name": "sda",
}  # fmt: skip
VDA = DiskFacts("vda", source="/vda.qcow2", format="qcow2", backing=(Image("/golden.qcow2", "qcow2", "file"),))


def test_allocation_counts_the_whole_chain() -> None:
    assert Sizes(CHAIN).of(VDA) == (64 * MIB, 204800 + 40 * MIB)


def test_allocation_is_never_more_than_the_disk() -> None:
    assert Sizes({**CHAIN, "block.1.physical": 90 * MIB}).of(VDA) == (64 * MIB, 64 * MIB)


def test_block_device_counts_as_full() -> None:
    assert Sizes(CHAIN).of(DiskFacts("vdb", kind="block", source="/dev/loop0")) == (64 * MIB, 64 * MIB)


def test_empty_drive_does_not_make_the_answer_incomplete() -> None:
    assert Sizes(CHAIN).complete
    assert Sizes({"block.count": 1, "block.0.name": "sda"}).complete


def test_answer_of_a_daemon_that_could_not_ask_qemu_is_incomplete() -> None:
    assert not Sizes({"block.count": 1, "block.0.name": "vda", "block.0.path": "/vda.qcow2"}).complete
