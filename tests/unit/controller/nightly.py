"""A schedule of every night: its children, and what is told of it."""

from typing import Any

from vmbackup.api import names
from vmbackup.cluster.resources import SCHEDULE, VMBACKUP
from vmbackup.core.kstatus import epoch, rfc3339

DAY = 86400.0
DUE = epoch("2026-09-22T02:30:00Z")
MARK = str(int(DUE // 60))
COLLECTION = f"POST {VMBACKUP.collection('team-a')}"
TIME = {"lastTransitionTime": rfc3339(DUE)}


def status(stage: Any, name: str = "nightly") -> dict[str, Any]:
    return dict(stage.server.objects[SCHEDULE.path(name, "team-a")]["status"])


def ready(stage: Any, name: str = "nightly") -> tuple[str, str, str]:
    condition = next(one for one in status(stage, name)["conditions"] if one["type"] == "Ready")
    return condition["status"], condition["reason"], condition["message"]


def children(stage: Any) -> list[str]:
    return sorted(body["metadata"]["name"] for path, body in stage.server.objects.items() if "/vmbackups/" in path)


def change(stage: Any, name: str = "nightly", **spec: Any) -> None:
    stage.server.change(SCHEDULE.path(name, "team-a"), spec=spec, metadata={"generation": 2})
    stage.hear()


def end(stage: Any, name: str, outcome: str = "Succeeded", at: float = DUE, **metadata: Any) -> None:
    """Let a child end as its agent would tell it."""
    verified = {"type": "Verified", "status": "True", "reason": "Checked", "lastTransitionTime": rfc3339(at)}
    said = {"type": "Succeeded", "status": "False", "reason": "CopyFailed", "message": "disk vda: no", **TIME}
    stage.server.change(
        stage.path(name),
        metadata=metadata,
        status={
            "node": "n1",
            "phase": "Done",
            "outcome": outcome,
            "startTime": rfc3339(at),
            "completionTime": rfc3339(at + 5),
            "conditions": [verified] if outcome == "Succeeded" else [said],
        },
    )
    stage.hear()


def child(stage: Any, days_ago: int, outcome: str = "Succeeded", **metadata: Any) -> str:
    """Put a child of the schedule that ended some days before the run that is due."""
    at = DUE - days_ago * DAY
    name = f"nightly-web-{int(at // 60)}"
    labels = {names.LABEL_SCHEDULE: "nightly", names.LABEL_RUN: str(int(at // 60))}
    metadata = {"labels": labels, "creationTimestamp": rfc3339(at)} | metadata
    stage.backup(name, metadata=metadata)
    end(stage, name, outcome, at)
    return name
