"""Traces of ours on a VM of which the journal knows nothing: what is ours is brought home, what may not be is not."""

from dataclasses import replace

import pytest

from unit.core.scene import BASE, OTHER_UID, OVERLAY, T0, UID, UUID, a_disk, a_domain, on_overlay, spec
from vmbackup.api.journal import Freeze, Launcher, Run
from vmbackup.api.vmbackup import Method, Outcome, Phase
from vmbackup.core.facts import BackupJob, DomainFacts, Image
from vmbackup.core.plan import Request
from vmbackup.core.rescue import LOST, adopted, rescue

PARTIAL = f"/backups/demo/vm1/.20260921T141320Z-first-7b0f3c51.{UID}.3.partial"
NOBODY: frozenset[str] = frozenset()


def pushing(*paths: str) -> DomainFacts:
    disks = [a_disk(target=f"vd{letter}") for letter, _ in zip("abc", paths, strict=False)]
    targets = {disk.target: path for disk, path in zip(disks, paths, strict=True)}
    return a_domain(*disks, job=BackupJob("backup", 0, 1, targets))


def found(domain: DomainFacts) -> Run:
    run = rescue(domain, NOBODY, T0)
    assert run is not None
    return run


def test_overlay_of_ours_is_to_be_merged_into_the_layer_right_below() -> None:
    golden = (Image(BASE, "qcow2", "file"), Image("/images/golden.qcow2", "qcow2", "file"))
    run = found(a_domain(replace(on_overlay(), backing=golden), a_disk(target="vdb")))
    assert (run.uid, run.method, run.phase, run.outcome) == (UID, Method.SNAPSHOT, Phase.COMMITTING, Outcome.FAILED)
    assert [(disk.target, disk.source, disk.overlay) for disk in run.disks] == [("vda", BASE, OVERLAY)]
    assert run.began
    assert run.freeze is Freeze.INTENDED


def test_attempt_of_the_overlay_is_kept_so_that_no_name_is_used_again() -> None:
    assert found(a_domain(replace(on_overlay(), source=OVERLAY.replace(".1.vda", ".4.vda")))).attempt == 4


def test_push_job_of_ours_is_found_by_its_targets_and_its_directory_is_known() -> None:
    run = found(pushing(f"{PARTIAL}/vda.qcow2", f"{PARTIAL}/vdb.qcow2"))
    assert (run.uid, run.method, run.phase, run.attempt) == (UID, Method.PUSH, Phase.COPYING, 3)
    assert f"{run.location_path}/{run.partial_path}" == PARTIAL
    assert [disk.image for disk in run.disks] == ["vda.qcow2", "vdb.qcow2"]


@pytest.mark.parametrize(
    "paths",
    [
        ("/elsewhere/vda.qcow2",),
        (f"{PARTIAL}/vda.qcow2", "/elsewhere/vdb.qcow2"),
        (f"{PARTIAL}/vda.qcow2", f"{PARTIAL.replace(UID, OTHER_UID)}/vdb.qcow2"),
        (f"{PARTIAL}/deeper/vda.qcow2",),
        (PARTIAL.replace(".partial", "/vda.qcow2"),),
        (),
    ],
)
def test_job_that_is_not_certain_to_be_ours_is_left_alone(paths: tuple[str, ...]) -> None:
    assert rescue(pushing(*paths), NOBODY, T0) is None


@pytest.mark.parametrize("name", ["vda.snap1", ".vmbackup.overlay", f".vmbackup.{UID}.x.vda.overlay", f"{UID}.overlay"])
def test_overlay_of_a_stranger_is_left_alone(name: str) -> None:
    assert rescue(a_domain(replace(on_overlay(), source=f"/images/{name}")), NOBODY, T0) is None


def test_what_the_journal_knows_is_not_rescued() -> None:
    assert rescue(a_domain(on_overlay()), {UID}, T0) is None
    assert rescue(pushing(f"{PARTIAL}/vda.qcow2"), {UID}, T0) is None


def test_overlay_that_the_journal_does_not_know_beside_one_that_it_knows() -> None:
    second = a_disk(target="vdb", source=OVERLAY.replace(UID, OTHER_UID), backing=(Image(BASE, "qcow2", "file"),))
    run = rescue(a_domain(on_overlay(), second), {UID}, T0)
    assert run is not None
    assert (run.uid, [disk.target for disk in run.disks]) == (OTHER_UID, ["vdb"])


def test_overlay_without_a_visible_base_is_left_to_a_human() -> None:
    assert rescue(a_domain(replace(on_overlay(), backing=())), NOBODY, T0) is None


def test_vm_that_is_off_is_left_as_it_is() -> None:
    assert rescue(a_domain(on_overlay(), state="off"), NOBODY, T0) is None


@pytest.mark.parametrize("name", ["demo_vm1", "a name with blanks", "../etc/passwd", "<b>", "naïve"])
def test_rescue_of_a_vm_of_any_name_can_be_written_down_and_read_again(name: str) -> None:
    """libvirt allows nearly everything as a name; a record that cannot be read is set aside, and its VM with it."""
    run = found(replace(a_domain(on_overlay()), name=name))
    assert Run.model_validate_json(run.model_dump_json(by_alias=True)) == run
    assert (run.domain, run.vm, run.name) == (name, name, LOST)


def test_rescue_of_a_backup_that_still_exists_goes_home_then_tries_again() -> None:
    request = Request(UID, "demo", "first", spec(), "demo_vm1", "/backups", "/overlays", T0 - 60, min_free="10%")
    run = adopted(found(a_domain(on_overlay())), request)
    assert run.set_path.startswith("demo/vm1/"), "where its unfinished set is looked for, and removed"
    assert (run.key, run.vm, run.location_path, run.min_free) == ("demo/first", "vm1", "/backups", "10%")
    assert run.failure is not None
    assert run.failure.heals
    assert (run.phase, run.started_at, run.domain_uuid) == (Phase.COMMITTING, T0 - 60, UUID)
    pushed = adopted(found(pushing(f"{PARTIAL}/vda.qcow2")), replace(request, location_path="/moved"))
    assert f"{pushed.location_path}/{pushed.partial_path}" == PARTIAL


# -- in a launcher pod ----------------------------------------------------------------------------------------------

POD = Launcher(
    pod_uid="3c7d2c50-0000-4000-8000-00000000000a",
    directory="/run/kubevirt/hotplug-disks",
    owner_uid=107,
    owner_gid=107,
)
SHOWN = f"{POD.directory}/{PARTIAL.rpartition('/')[2]}"


def test_push_job_in_a_pod_is_found_by_the_directory_that_the_pod_is_shown() -> None:
    run = rescue(pushing(f"{SHOWN}/vda.qcow2", f"{SHOWN}/vdb.qcow2"), NOBODY, T0, POD)
    assert run is not None
    assert (run.uid, run.method, run.phase, run.attempt, run.launcher) == (UID, Method.PUSH, Phase.COPYING, 3, POD)
    assert run.mounted, "it is unmounted on its way home"
    assert run.target_directory == SHOWN
    assert f"/backups/{run.partial_path}" == PARTIAL


@pytest.mark.parametrize(
    "paths",
    [
        (f"{PARTIAL}/vda.qcow2",),
        ("/run/kubevirt/hotplug-disks/vda.qcow2",),
        (f"{SHOWN}/vda.qcow2", "/elsewhere/vdb.qcow2"),
        (f"{SHOWN}/deeper/vda.qcow2",),
        (),
    ],
)
def test_other_job_in_a_pod_is_left_alone(paths: tuple[str, ...]) -> None:
    assert rescue(pushing(*paths), NOBODY, T0, POD) is None


def test_job_in_a_pod_that_the_journal_knows_is_no_trace() -> None:
    assert rescue(pushing(f"{SHOWN}/vda.qcow2"), {UID}, T0, POD) is None
