"""Published sets as they stand in a location, without a VM behind them."""

import json
from pathlib import Path
from typing import Any


def make_set(location: Path, uid: str, moment: str = "2026-09-22T02:30:00.000Z", **manifest: Any) -> Path:
    directory = location / "team-a" / "web" / f"20260922T023000Z-nightly-{uid}"
    directory.mkdir(parents=True)
    said = {
        "backupName": "nightly", "backupNamespace": "team-a", "backupUid": uid, "vm": "web", "domain": "team-a_web",
        "domainUuid": "u", "node": "n1", "method": "Push", "methodReason": "", "quiesced": False,
        "pointInTime": moment, "started": moment, "published": moment, "verified": "Check", "libvirtVersion": "9",
        "hypervisorVersion": "7", "operatorVersion": "0",
        "disks": [{"target": "vda", "file": "vda.qcow2", "format": "qcow2", "virtualBytes": 9, "storedBytes": 9,
                   "source": "/x"}],
    } | manifest  # fmt: skip
    (directory / "manifest.json").write_text(json.dumps(said))
    (directory / "domain.xml").write_text("<domain/>")
    (directory / "vda.qcow2").write_text("image")
    return directory
