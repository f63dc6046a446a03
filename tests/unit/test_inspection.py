from pathlib import Path

import pytest

from unit.core.scene import BASE, OVERLAY, a_disk, a_domain, on_overlay
from vmbackup import inspection
from vmbackup.core.facts import DiskFacts, DomainFacts, Image
from vmbackup.hypervisor.libvirtd import KnownDomain


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[DomainFacts]:
    """What the daemon shows; the journal is empty."""
    domains: list[DomainFacts] = []

    class Daemon:
        def __init__(self, _connect: str) -> None:
            pass

        def vms(self) -> list[KnownDomain]:
            return [KnownDomain(domain.name, domain.uuid, True, None) for domain in domains]

        def find(self, _name: str) -> DomainFacts:
            return domains[0]

    monkeypatch.setattr(inspection, "Libvirtd", Daemon)
    return domains


def below_a_stranger() -> DiskFacts:
    backing = (Image(OVERLAY, "qcow2", "file"), Image(BASE, "qcow2", "file"))
    return a_disk(source="/images/stranger.qcow2", backing=backing)


def test_vm_on_its_own_disks_is_not_spoken_of(seen: list[DomainFacts], tmp_path: Path) -> None:
    seen.append(a_domain())
    assert not inspection.inspect("", tmp_path)


def test_overlay_that_the_journal_does_not_know_is_the_agents_work(seen: list[DomainFacts], tmp_path: Path) -> None:
    seen.append(a_domain(on_overlay()))
    (finding,) = inspection.inspect("", tmp_path)
    assert finding.kind == "orphan"
    assert OVERLAY in finding.what
    assert "agent merges it" in finding.advice


def test_overlay_below_a_strangers_layer_is_told_with_the_command_that_frees_it(
    seen: list[DomainFacts], tmp_path: Path
) -> None:
    seen.append(a_domain(below_a_stranger()))
    (finding,) = inspection.inspect("", tmp_path)
    assert finding.kind in inspection.NEEDS_A_HUMAN
    assert OVERLAY in finding.what
    assert "/images/stranger.qcow2" in finding.what
    assert "virsh blockcommit demo_vm1 vda --active --shallow --pivot" in finding.advice
