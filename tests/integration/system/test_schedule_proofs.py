"""A schedule proves its sets on real parts: a copy is booted, and the VMBackup says so."""

import json

from integration.system.backup import Backup
from integration.system.restores import Restores
from integration.system.tenant import Tenant
from integration.system.test_schedules import run

BOOT = {"boot": {"aliveSeconds": 1, "bootSeconds": 120, "maxMemory": "128Mi"}}


def reason(backup: Backup) -> str:
    return str(backup.conditions.get("Verified", {}).get("reason"))


def test_newest_set_is_booted_and_its_backup_tells_it(tenant: Tenant, restores: Restores) -> None:
    domain = tenant.vm()
    tenant.until_hosted("web")
    name = run(tenant, "one", proof=BOOT)
    assert reason(tenant.get(name)) in ("Checked", "Booted")
    backup = tenant.until(lambda backup: reason(backup) == "Booted", name)
    (record,) = backup.status["proofs"]
    assert (record["kind"], record["succeeded"], record["heartbeat"]) == ("Boot", True, "DiskActivity")
    (published,) = tenant.sets()
    beside = json.loads((published / "proof.json").read_text())
    assert (beside["succeeded"], beside["restore"]) == (True, f"{tenant.namespace}/{record['restore']}")
    assert tenant.virsh("list", "--all", "--name").split().count(domain) == 1
    restores.over(record["restore"])
    assert [line for line in tenant.virsh("list", "--all", "--name").split() if "proof" in line] == []
    assert tenant.until_event("Proved", name)["type"] == "Normal"
    assert tenant.is_home(domain)


def test_set_that_was_changed_is_found_by_its_proof_and_counts_for_nothing(tenant: Tenant, restores: Restores) -> None:
    """One byte of an image, with size and header as they were."""
    tenant.vm()
    tenant.back_up(verify="Checksum")
    tenant.until_succeeded()
    (published,) = tenant.sets()
    image = published / "vda.qcow2"
    content = bytearray(image.read_bytes())
    content[-1] ^= 0xFF
    image.write_bytes(content)
    restores.ask("scrub", {"proof": {"kind": "Scrub"}})
    assert restores.over("scrub")["outcome"] == "Failed"
    backup = tenant.until(lambda backup: reason(backup) == "VerificationFailed")
    assert backup.status["proofs"][0]["kind"] == "Scrub"
    assert json.loads((published / "proof.json").read_text())["broken"] is True
    assert tenant.until_event("ProofFailed")["type"] == "Warning"
