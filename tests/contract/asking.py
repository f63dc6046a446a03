"""What the contract's tests have in common: where they run, and how they ask."""

from functools import partial

import pytest

from contract.site import Site, overlays_of, wait_until
from vmbackup.api.journal import Run
from vmbackup.core.facts import DiskFacts, DomainFacts
from vmbackup.core.steps import HypervisorStep, Pivot, StartCommit, TakeSnapshot
from vmbackup.errors import Failed, Refused, VMBackupError

SITES = ("fake", "libvirt-7.0", "libvirt-9.0", "libvirt-11.3")
PUSHING = ("fake", "libvirt-9.0", "libvirt-11.3")

everywhere = pytest.mark.parametrize("site", SITES, indirect=True)
where_push_works = pytest.mark.parametrize("site", PUSHING, indirect=True)


def disk_of(site: Site, run: Run, target: str = "vda") -> DiskFacts:
    disk = site.hypervisor.observe(run).disk(target)
    assert disk is not None
    return disk


def refusal(site: Site, run: Run, step: HypervisorStep) -> VMBackupError:
    with pytest.raises((Failed, Refused)) as raised:
        site.hypervisor.perform(run, step)
    return raised.value


def put_on_overlay(site: Site, run: Run) -> None:
    site.hypervisor.perform(run, TakeSnapshot(overlays_of(run)))


def take_home(site: Site, run: Run) -> None:
    for disk in run.disks:
        site.hypervisor.perform(run, StartCommit(disk.target, disk.source))
        wait_until(site, run, partial(is_ready, disk.target))
        site.hypervisor.perform(run, Pivot(disk.target))


def is_ready(target: str, facts: DomainFacts) -> bool:
    return ready(facts.disk(target))


def ready(disk: DiskFacts | None) -> bool:
    return disk is not None and disk.job is not None and disk.job.ready


def assert_home(site: Site, run: Run) -> None:
    facts = site.hypervisor.observe(run)
    for disk in run.disks:
        seen = facts.disk(disk.target)
        assert seen is not None
        assert (seen.source, seen.inactive_source, seen.job) == (disk.source, disk.source, None)
        assert tuple(image.path for image in seen.backing) == disk.backing
