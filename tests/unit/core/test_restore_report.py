"""What a restore's status says at its end."""

import pytest

from vmbackup.api.restore import RestoreKind, RestorePhase, VMRestoreStatus
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.restore_facts import RestoreFacts, RestoreFiles
from vmbackup.core.restore_report import restore_status


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (RestoreKind.NEW_DOMAIN, {"newDomain": {"name": "back"}}),
        (RestoreKind.INSTANT, {"instant": {"name": "back"}}),
        (RestoreKind.IN_PLACE, {"inPlace": {"overwrite": True}}),
    ],
)
def test_end_does_not_say_that_a_vm_runs_which_may_be_off(kind: RestoreKind, target: dict[str, object]) -> None:
    """The guest of an instant VM may have ended before its data was complete; it is defined then, and off."""
    words = ("uid", "namespace", "name", "vm", "location", "locationPath", "setPath", "backupUid", "pointInTime")
    rest = {"imagesPath": "/images", "kind": kind, "domain": "demo_back", "disks": (), "startedAt": 0.0}
    spec = {"source": {"backup": "b"}, "target": target}
    run = RestoreRun.model_validate(dict.fromkeys(words, "x") | rest | {"spec": spec})
    over = run.model_copy(update={"phase": RestorePhase.DONE, "outcome": Outcome.SUCCEEDED, "finished_at": 9.0})
    status = restore_status(over, RestoreFacts(RestoreFiles()), VMRestoreStatus(), 9.0)
    (told,) = [one.message for one in status.conditions if one.type == "Succeeded"]
    assert "demo_back" in told
    assert " runs " not in told
