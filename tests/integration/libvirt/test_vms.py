"""VMs that are off, paused, not defined, or named and built by somebody hostile."""

import xml.etree.ElementTree as ET
from pathlib import Path

import libvirt
import pytest

from integration.libvirt.alone import Alone, run_alone
from integration.libvirt.machines import VM, same_content
from integration.libvirt.releases import everywhere, methods, releases
from integration.libvirt.rig import NAMESPACE, Rig
from integration.libvirt.sets import assert_nothing_published, assert_published
from testbed.guests import Disk, Options, domain_xml
from vmbackup.api.conditions import ConditionType
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.ownership import Claim, hosted
from vmbackup.errors import VMBackupError
from vmbackup.hypervisor.libvirtd import Libvirtd


@methods
def test_vm_is_off_and_its_backup_waits_until_it_is_started(rig: Rig, method: str) -> None:
    vm = rig.vm()
    vm.stop()
    ours = run_alone(rig, vm, method=method)
    ours.wait_for(ConditionType.RECONCILING, "VMNotRunning", vm.name, "is not running; start it")
    assert_nothing_published(rig)
    vm.start()
    assert ours.end() is Outcome.SUCCEEDED, ours.why()
    assert len(rig.sets()) == 1


def test_vm_stays_off_until_the_deadline(rig: Rig) -> None:
    vm = rig.vm()
    vm.stop()
    ours = run_alone(rig, vm, deadline_seconds=1)
    assert ours.end() is Outcome.REFUSED
    assert "DeadlineExceeded" in ours.why()
    assert f"VM {vm.name} is not running" in ours.why()
    assert_nothing_published(rig)


@everywhere
def test_paused_vm_is_backed_up_and_stays_paused(rig: Rig, method: str) -> None:
    vm = rig.vm()
    vm.suspend()
    before = vm.portrait()
    assert before.state == "paused"
    run = rig.run(vm, method=method)
    published = assert_published(rig, run)
    assert same_content(published / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before


@everywhere
def test_vm_without_a_definition_is_backed_up(rig: Rig, method: str) -> None:
    vm = rig.vm(persistent=False)
    before = vm.portrait()
    run = rig.run(vm, method=method)
    published = assert_published(rig, run)
    assert same_content(published / "vda.qcow2", vm.paths["vda"])
    assert vm.portrait() == before
    assert vm.name in (published / "domain.xml").read_text()


@methods
def test_vm_that_is_undefined_in_mid_copy_is_backed_up_all_the_same(rig: Rig, method: str) -> None:
    vm = rig.vm(Disk(rig.large_image() if method == "Push" else rig.image("vda", data_mib=6)))
    backup = rig.held_push(vm) if method == "Push" else rig.held_copy(vm, max_bytes_per_second="2Mi")
    with vm.domain() as domain:
        domain.undefine()
    if method == "Push":
        vm.slow_down(0)
    run = backup.end()
    assert_published(rig, run)
    after = vm.portrait()
    assert (after.state, after.jobs, after.live["vda"][0]) == ("running", {}, str(vm.paths["vda"]))


def test_vm_that_powers_off_for_good_in_mid_push_fails_at_the_deadline(rig: Rig) -> None:
    vm = rig.vm(Disk(rig.large_image()))
    backup = rig.held_push(vm, deadline_seconds=6)
    vm.stop()
    run = backup.end()
    assert run.outcome is Outcome.FAILED
    assert run.failure is not None
    assert run.failure.reason == "DeadlineExceeded"
    assert "is not running" in run.failure.message
    assert_nothing_published(rig)


# -- hostile names and paths ------------------------------------------------------------------------------------------

NAMES = ["a b", "ünï çødé", "...", "team-a_..x", "team-a_", "_x", "team-a_a b", "x" * 200, "-rf", "'$(id)'", "%s%n"]
NOT_EVEN_LIBVIRT_TAKES = ["..", "../../etc", "team-a_../x", "a/b"]


def define(rig: Rig, name: str, source: str) -> VM:
    """Define a domain whose name and path libvirt does not mind. Raises: libvirt.libvirtError: it does."""
    root = ET.fromstring(domain_xml("placeholder", [Disk(Path("/nowhere"))], Options(memory_mib=32)))  # noqa: S314
    root.find("name").text = name  # type: ignore[union-attr]
    root.find("devices/disk/source").set("file", source)  # type: ignore[union-attr]
    connection = libvirt.open(rig.daemon.uri)
    try:
        uuid = connection.defineXML(ET.tostring(root, encoding="unicode")).UUIDString()
    finally:
        connection.close()
    vm = VM(rig.daemon, name, uuid, rig.disks)
    rig.vms.append(vm)
    return vm


@releases
def test_hostile_names_neither_break_the_inventory_nor_can_be_named(rig: Rig) -> None:
    honest = rig.vm()
    made = [define(rig, name, "/var/nothing.qcow2") for name in NAMES]
    hypervisor = Libvirtd(rig.daemon.uri)
    seen = hypervisor.vms()
    assert {vm.name for vm in made} <= {known.domain for known in seen}
    listed = hosted([Claim(*vm) for vm in seen])
    reachable = {vm.domain for vm in listed.vms if vm.namespace}
    assert honest.name in reachable
    assert not reachable & {vm.name for vm in made}
    for vm in made:
        facts = hypervisor.find(vm.name)
        assert facts.state == "off"
    for name in [*NAMES, *NOT_EVEN_LIBVIRT_TAKES, *(vm.short_name for vm in made)]:
        assert_unreachable(rig, name)


def assert_unreachable(rig: Rig, name: str) -> None:
    try:
        ours = Alone(rig, name)
    except ValueError as error:
        words = str(error)  # the schema refuses it
    else:
        ours.end()
        words = ours.why()
    assert "spec.source.name" in words or words.startswith("VMNotFound")


SOURCES = [
    "/images/a\nb.qcow2",
    "/images/../../etc/shadow",
    'json:{"driver":"file","filename":"/etc/shadow"}',
    "nbd://example.invalid/x",
    "/dev/../etc/passwd",
    "/images/<&'\">.qcow2",
    "relative.qcow2",
    "/" + "x" * 3000,
]


@pytest.mark.parametrize("source", SOURCES)
def test_hostile_path_of_a_vm_that_is_off_breaks_nothing(rig: Rig, source: str) -> None:
    honest = rig.vm()
    try:
        hostile = define(rig, f"{NAMESPACE}_hostile{rig.number}", source)
    except libvirt.libvirtError:
        return  # this libvirt keeps it out by itself
    hypervisor = Libvirtd(rig.daemon.uri)
    assert {honest.name, hostile.name} <= {vm.domain for vm in hypervisor.vms()}
    facts = hypervisor.find(hostile.name)
    assert facts.state == "off"
    with pytest.raises(VMBackupError, match="is not running"):
        rig.run(hostile)
    assert_nothing_published(rig)


@methods
@pytest.mark.parametrize("name", ["a,b=c.qcow2", "ünï <&'\"> %s.qcow2", "json:{}.qcow2", "-rf.qcow2", "a:b.qcow2"])
def test_odd_file_names_are_nothing_but_names(rig: Rig, method: str, name: str) -> None:
    plain = rig.image("plain")
    odd = plain.rename(plain.with_name(name))
    try:
        vm = rig.vm(Disk(odd))
    except libvirt.libvirtError:
        odd.rename(plain)
        return  # this libvirt or QEMU keeps it out by itself
    before = vm.portrait()
    run = rig.run(vm, method=method)
    published = assert_published(rig, run)
    assert same_content(published / "vda.qcow2", odd)
    assert vm.portrait() == before


@everywhere
def test_line_break_in_a_path_never_copies_another_file(rig: Rig, method: str) -> None:
    """libvirt writes it into its XML as it is, where XML reads a blank: that is the name of another file."""
    plain, decoy = rig.image("plain"), rig.image("a b", data_mib=1)
    odd = plain.rename(plain.with_name("a\nb.qcow2"))
    vm = rig.vm(Disk(odd))
    before = vm.portrait()
    published = assert_published(rig, rig.run(vm, method=method))
    assert not same_content(published / "vda.qcow2", decoy), "the set holds another file than the VM's disk"
    assert same_content(published / "vda.qcow2", odd)
    assert vm.portrait() == before


@methods
def test_source_that_is_a_link_is_not_followed_out_of_its_directory(rig: Rig, method: str) -> None:
    """Push leaves reading to QEMU, which has the disk open anyway; a copy of ours follows no link."""
    real = rig.image("real")
    link = rig.disks / "link.qcow2"
    link.symlink_to(real)
    vm = rig.vm(Disk(link))
    before = vm.portrait()
    run = rig.run(vm, method=method)
    if method == "Push":
        assert same_content(assert_published(rig, run) / "vda.qcow2", real)
    else:
        assert run.failure is not None
        assert f"{link} was not copied: it is a link" in run.failure.message
        assert not run.began
        assert_nothing_published(rig)
    assert vm.portrait() == before


def test_vm_of_another_namespace_cannot_be_named(rig: Rig) -> None:
    vm = rig.vm()
    stranger = define(rig, f"team-b_{vm.short_name}x", "/nowhere.qcow2")
    ours = Alone(rig, stranger.short_name)
    assert ours.end() is Outcome.REFUSED
    assert ours.why().startswith("VMNotFound")


def test_domain_metadata_gives_the_vm_to_its_owner_only(rig: Rig) -> None:
    owner = '<vmbackup:owner xmlns:vmbackup="https://vmbackup.dev/domain/1" namespace="team-b"/>'
    vm = rig.vm(options=Options(memory_mib=32, metadata=owner))
    ours = Alone(rig, vm.short_name)
    assert ours.end() is Outcome.REFUSED, "the VM says that it is team-b's"
    assert ours.why().startswith("VMNotFound")


def test_unknown_vm_is_refused(rig: Rig) -> None:
    ours = Alone(rig, "nobody")
    assert ours.end() is Outcome.REFUSED
    assert ours.why().startswith("VMNotFound")
    assert_nothing_published(rig)
