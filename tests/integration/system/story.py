"""Everything that a backup's resource has shown, from its creation to its end."""

import threading
from itertools import pairwise
from types import TracebackType
from typing import Self

from kubernetes import watch

from integration.system.backup import Backup
from integration.system.tenant import Tenant

WATCH_SECONDS = 120


class Story:
    """`with Story(tenant) as story:` hears every change of one VMBackup until it is over or gone."""

    def __init__(self, tenant: Tenant, name: str = "backup") -> None:
        self.seen: list[Backup] = []
        self._tenant, self._name = tenant, name
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        tenant = self._tenant
        stream = watch.Watch().stream(
            tenant.custom.list_namespaced_custom_object,
            *tenant.backups,
            field_selector=f"metadata.name={self._name}",
            timeout_seconds=WATCH_SECONDS,
        )
        for event in stream:
            self.seen.append(Backup(event["object"]))
            if event["type"] == "DELETED" or self.seen[-1].over:
                return

    @property
    def phases(self) -> list[str]:
        """Return the phases in the order in which they were seen."""
        phases = [backup.phase for backup in self.seen]
        return phases[:1] + [after for before, after in pairwise(phases) if after != before]

    @property
    def bytes_done(self) -> list[int]:
        return [backup.status["progress"]["bytesDone"] for backup in self.seen if backup.status.get("progress")]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._thread.join(WATCH_SECONDS)
            assert not self._thread.is_alive(), f"{self._name} was not over in time: {self.phases}"
