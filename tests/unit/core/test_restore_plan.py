"""From a VMRestore to a run: the right set, the right names, refused in words."""

from typing import Any

import pytest

from vmbackup.api.conditions import Reason
from vmbackup.api.manifest import Manifest, ManifestDisk
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.restore_spec import VMRestoreSpec
from vmbackup.api.vmbackup import Method
from vmbackup.core.facts import DiskFacts, DomainFacts
from vmbackup.core.ownership import Claim, owner_of
from vmbackup.core.restore_plan import RestoreRequest, SetFacts, choose_set, plan_restore
from vmbackup.errors import NotYet, Refused
from vmbackup.units import MIB

UID = "7b0f3c51-0000-4000-8000-000000000001"
FIRST = "c7a5fdbd-edaf-9455-926a-d65c16db1809"


def a_set(moment: str = "2026-11-23T06:00:00Z", *, domain: str = "demo_web", **changes: Any) -> SetFacts:
    disks = tuple(
        ManifestDisk(target=t, file=f"{t}.{f}", format=f, virtual_bytes=MIB, stored_bytes=MIB, source=f"/images/{t}")
        for t, f in (("vda", "qcow2"), ("vdb", "raw"))
    )
    manifest = Manifest(
        backup_name="b", backup_namespace="demo", backup_uid="u", vm="web", domain=domain, domain_uuid=FIRST,
        node="n", method=Method.PUSH, method_reason="", quiesced=False, point_in_time=moment, started="",
        published="", verified="Check", libvirt_version="", hypervisor_version="", operator_version="", disks=disks,
    )  # fmt: skip
    sizes = changes.get("sizes", {"vda": MIB, "vdb": MIB})
    return SetFacts(f"demo/web/{moment}", manifest, sizes)


def planned(
    target: dict[str, Any],
    *,
    found: SetFacts | None = None,
    claims: tuple[Claim, ...] = (),
    domain: DomainFacts | None = None,
    default: str = "",
) -> RestoreRun:
    spec = VMRestoreSpec.model_validate({"source": {"backup": "b"}, "target": target})
    request = RestoreRequest(
        uid=UID, namespace="demo", name="back", spec=spec, location="nightly", location_path="/backups",
        images_path="/images", started_at=0.0, default_namespace=default,
    )  # fmt: skip
    return plan_restore(request, found or a_set(), claims, domain)


def refusal(target: dict[str, Any], **more: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        planned(target, **more)
    return caught.value


def off(source: str = "/images/web.qcow2", **changes: Any) -> DomainFacts:
    disks = (
        DiskFacts("vda", source=source, format="qcow2", **changes),
        DiskFacts("vdb", source="/images/b.raw", format="raw"),
    )
    return DomainFacts("demo_web", FIRST, "off", disks=disks)


# -- which set ------------------------------------------------------------------------------------------------------

SETS = [a_set("2026-11-21T06:00:00Z"), a_set("2026-11-23T06:00:00Z"), a_set("2026-11-22T06:00:00Z")]


@pytest.mark.parametrize(
    ("moment", "chosen"),
    [
        (None, "2026-11-23T06:00:00Z"),
        ("2026-11-23T06:00:00Z", "2026-11-23T06:00:00Z"),
        ("2026-11-23T05:59:59Z", "2026-11-22T06:00:00Z"),
        ("2026-11-22T08:00:00+02:00", "2026-11-22T06:00:00Z"),
    ],
)
def test_the_newest_set_that_is_not_after_the_moment(moment: str | None, chosen: str) -> None:
    assert choose_set(SETS, moment, "web").manifest.point_in_time == chosen


@pytest.mark.parametrize(("sets", "moment"), [([], None), (SETS, "2026-11-20T00:00:00Z")])
def test_no_such_set(sets: list[SetFacts], moment: str | None) -> None:
    with pytest.raises(Refused) as caught:
        choose_set(sets, moment, "web")
    assert caught.value.reason == Reason.SET_NOT_FOUND


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "default", "name"),
    [("demo_web", "", "demo_back"), ("web", "demo", "back"), ("web", "", "demo_back"), ("web", "other", "demo_back")],
)
def test_the_new_vm_belongs_to_the_namespace(first: str, default: str, name: str) -> None:
    run = planned({"newDomain": {"name": "back"}}, found=a_set(domain=first), default=default)
    assert run.domain == name
    assert owner_of(run.domain, None, default) == ("demo", "back")
    assert run.domain_uuid not in ("", FIRST)


def test_a_name_that_would_belong_to_another_namespace_is_not_used() -> None:
    run = planned({"newDomain": {"name": "evil_vm"}}, found=a_set(domain="web"), default="demo")
    assert run.domain == "demo_evil_vm"


@pytest.mark.parametrize("taken", ["demo_back", "back"])
def test_a_name_that_a_vm_has_is_refused(taken: str) -> None:
    claims = (Claim(taken, FIRST, running=True, owner=None),)
    assert refusal({"newDomain": {"name": "back"}}, claims=claims, default="demo").reason == Reason.VM_EXISTS


def test_two_vms_with_one_mac_address_are_refused() -> None:
    claims = (Claim("demo_web", FIRST, running=False),)
    target = {"instant": {"name": "back", "macAddresses": "Keep"}}
    assert refusal(target, claims=claims).reason == Reason.VM_EXISTS
    assert planned(target).domain == "demo_back"


# -- images ---------------------------------------------------------------------------------------------------------


def test_images_have_a_directory_of_their_own() -> None:
    run = planned({"newDomain": {"name": "back"}})
    assert [disk.file for disk in run.disks] == [
        "/images/demo/back-7b0f3c51/vda.qcow2",
        "/images/demo/back-7b0f3c51/vdb.raw",
    ]
    assert run.working_file(run.disk("vda")) == f"/images/demo/.back.{UID}.partial/vda.qcow2"


@pytest.mark.parametrize(("wanted", "names"), [("Keep", ["vda.qcow2", "vdb.raw"]), ("Raw", ["vda.raw", "vdb.raw"])])
def test_formats_of_files(wanted: str, names: list[str]) -> None:
    run = planned({"disks": {"format": wanted}})
    assert [disk.file.rpartition("/")[2] for disk in run.disks] == names


def test_instant_images_are_overlays() -> None:
    assert {disk.format for disk in planned({"instant": {"name": "back"}}).disks} == {"qcow2"}


def test_a_disk_that_the_set_lacks_is_refused() -> None:
    assert refusal({"disks": {"include": ["vdz"]}}).reason == Reason.DISK_NOT_FOUND


def test_a_set_with_a_missing_image_is_refused() -> None:
    assert refusal({"disks": {}}, found=a_set(sizes={"vda": MIB})).reason == Reason.SET_BROKEN
    assert planned({"disks": {"include": ["vda"]}}, found=a_set(sizes={"vda": MIB})).disks


# -- in place -------------------------------------------------------------------------------------------------------

IN_PLACE = {"inPlace": {"overwrite": True}}


def test_in_place_takes_files_and_formats_of_the_vm() -> None:
    run = planned(IN_PLACE, domain=off())
    assert [(disk.file, disk.format) for disk in run.disks] == [
        ("/images/web.qcow2", "qcow2"),
        ("/images/b.raw", "raw"),
    ]
    assert run.working_file(run.disk("vda")) == f"/images/.web.qcow2.restore.{UID}"


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        (DomainFacts("demo_web", FIRST, "running", disks=off().disks), Reason.VM_RUNNING),
        (DomainFacts("demo_web", FIRST, "paused", disks=off().disks), Reason.VM_RUNNING),
        (DomainFacts("demo_web", "", "absent"), Reason.VM_NOT_FOUND),
        (DomainFacts("demo_web", FIRST, "off", disks=off().disks[1:]), Reason.DISK_NOT_FOUND),
        (DomainFacts("demo_web", FIRST, "off", disks=off().disks, snapshots=("s",)), Reason.FOREIGN_SNAPSHOT),
        (off(kind="block"), Reason.TARGET_UNSUPPORTED),
        (off(shareable=True), Reason.TARGET_UNSUPPORTED),
        (off(encrypted=True), Reason.TARGET_UNSUPPORTED),
        (off("/backups/demo/web/set/vda.qcow2"), Reason.TARGET_UNSUPPORTED),
    ],
)
def test_in_place_is_refused_in_words(domain: DomainFacts, reason: Reason) -> None:
    assert refusal(IN_PLACE, domain=domain).reason == reason


def test_a_disk_on_the_overlay_of_a_backup_is_waited_for() -> None:
    with pytest.raises(NotYet):
        planned(IN_PLACE, domain=off(f"/images/.vmbackup.{UID}.1.vda.overlay"))
