"""The node journal's record survives the disk, and gives names that lead nowhere else."""

from vmbackup.api.journal import Run, RunDisk
from vmbackup.api.vmbackup import Method, Source, VMBackupSpec

RUN = Run(
    uid="0b5e1c5e-0000-4000-8000-000000000001",
    namespace="demo",
    name="web-push",
    attempt=2,
    domain="demo_web",
    domain_uuid="7d1f0d4c-0000-4000-8000-000000000002",
    vm="web",
    instance="boot 1 10",
    spec=VMBackupSpec(source=Source(name="web"), location="local", deadline_seconds=60),
    location_path="/srv/vmbackup",
    overlay_directory="/var/lib/vmbackup/overlays",
    set_path="demo/web/20260101T000000Z-web-push-0b5e1c5e",
    method=Method.PUSH,
    method_reason="libvirt 9.0.0 supports full push",
    disks=tuple(
        RunDisk(
            target=target,
            source=f"/images/{target}.qcow2",
            source_kind="file",
            source_format="qcow2",
            virtual_bytes=1,
            image=f"{target}.qcow2",
            image_format="qcow2",
        )
        for target in ("vda", "vdb")
    ),
    started_at=1000.0,
    attempt_started_at=1000.5,
)


def test_run_survives_the_disk() -> None:
    assert Run.model_validate_json(RUN.model_dump_json(by_alias=True)) == RUN


def test_partial_directory_is_beside_the_set_and_hidden_and_of_one_attempt() -> None:
    uid = "0b5e1c5e-0000-4000-8000-000000000001"
    assert RUN.partial_path == f"demo/web/.20260101T000000Z-web-push-0b5e1c5e.{uid}.2.partial"


def test_changing_one_disk_leaves_the_others() -> None:
    changed = RUN.with_disk("vdb", copied=True)
    assert [disk.copied for disk in changed.disks] == [False, True]
    assert changed.disk("vda") == RUN.disk("vda")


def test_deadline_counts_from_the_start_of_the_run_not_of_the_attempt() -> None:
    assert RUN.deadline_at == 1060.0
