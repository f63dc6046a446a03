"""What this node can do, which VMs it has and what it sees of the locations: its VMHost, written on change only."""

import logging
import threading
import time
from collections.abc import Callable

from pydantic import ValidationError

from vmbackup.api.conditions import Condition, ConditionType, Reason, put
from vmbackup.api.host import HostedVM, LocationSpace, MethodSupport, VMHostStatus
from vmbackup.api.location import VMBackupLocation
from vmbackup.api.vmbackup import Method
from vmbackup.cluster.client import Body
from vmbackup.cluster.resources import LOCATION, VMHOST, Resources
from vmbackup.core import ownership
from vmbackup.core.facts import HostFacts
from vmbackup.core.kstatus import LONGEST_REASON, cut, rfc3339
from vmbackup.core.method import push_obstacle, version
from vmbackup.errors import NotYet, VMBackupError
from vmbackup.hypervisor.libvirtd import Libvirtd
from vmbackup.hypervisor.pods import launchers
from vmbackup.store.leftovers import leftover_words
from vmbackup.store.space import look

LOOK_SECONDS = 10.0
WRITE_AGAIN_SECONDS = 300.0  # heals a VMHost that somebody else has changed or removed
LEFTOVERS_SECONDS = 3600.0
SETTLE_SECONDS = 0.2  # domains come and go in bursts

log = logging.getLogger(__name__)


class Inventory:
    """Looks every ten seconds and when woken; writes when something changed. `locations` come from the watch."""

    def __init__(
        self,
        resources: Resources,
        hypervisor: Libvirtd,
        node: str,
        session: str,
        default_namespace: str,
        *,
        find_launchers: Callable[[], set[str]] = launchers,
    ) -> None:
        self._find_launchers = find_launchers
        self._resources, self._hypervisor = resources, hypervisor
        self._node, self._session, self._default_namespace = node, session, default_namespace
        self._locations: dict[str, Body] = {}
        self._leftovers: dict[str, str] = {}
        self._leftovers_at: float | None = None
        self._listed = False
        self._written_at = 0.0
        self._woken = threading.Event()
        self._status = VMHostStatus()
        self._thread = threading.Thread(target=self._look_for_ever, name="inventory", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def heard_location(self, body: Body, *, gone: bool) -> None:
        """Take note of a location as the watch shows it."""
        if gone:
            self._locations.pop(body["metadata"]["name"], None)
        else:
            self._locations[body["metadata"]["name"]] = body
        self.wake()

    def look_for_leftovers(self) -> None:
        """Look, once an hour, for unfinished sets of which nobody knows any more; the location's message names them."""
        if self._leftovers_at is not None and time.monotonic() - self._leftovers_at < LEFTOVERS_SECONDS:
            return
        self._leftovers_at = time.monotonic()
        for body in sorted_by_name(dict(self._locations)):
            path = body.get("spec", {}).get("directory", {}).get("path", "")
            self._leftovers[path] = leftover_words(path, time.time())

    def _look_for_ever(self) -> None:
        while True:
            try:
                self.look()
            except VMBackupError as error:
                log.warning("VMHost %s not written: %s", self._node, error.message)
            except Exception:
                log.exception("VMHost %s: unforeseen fault", self._node)
            if self._woken.wait(LOOK_SECONDS):
                time.sleep(SETTLE_SECONDS)
                self._woken.clear()

    def look(self) -> None:
        """Look once; write when something changed. Raises: APIServerAway, Denied: the API server did not take it."""
        if not self._listed:
            self._list_locations()
        seen = self._see()
        if seen != self._status or time.monotonic() - self._written_at > WRITE_AGAIN_SECONDS:
            self._resources.put_status(VMHOST, self._node, seen)
            self._status, self._written_at = seen, time.monotonic()

    def _list_locations(self) -> None:
        """Know all locations before the first word: else they would seem to be lost from this node for a moment."""
        for body in self._resources.list(LOCATION):
            self._locations.setdefault(body["metadata"]["name"], body)
        self._listed = True

    def _see(self) -> VMHostStatus:
        locations = tuple(space for body in sorted_by_name(self._locations) if (space := self._space(body)))
        try:
            host, vms = self._hypervisor.host(), self._vms()
        except NotYet as away:
            conditions = self._without_daemon(away)
            return self._status.model_copy(
                update={"session": self._session, "locations": locations, "conditions": conditions}
            )
        return VMHostStatus(
            session=self._session,
            libvirt_version=version(host.libvirt_version),
            hypervisor_version=version(host.hypervisor_version),
            methods=methods(host),
            vms=vms,
            locations=locations,
            conditions=self._ready("True", Reason.READY, f"{len(vms)} VMs; libvirt {version(host.libvirt_version)}"),
        )

    def _without_daemon(self, away: NotYet) -> tuple[Condition, ...]:
        """Tell a node that is for launcher pods only from one whose daemon was there before and is away."""
        pods = 0 if self._status.libvirt_version else len(self._find_launchers())
        if not pods:
            return self._ready("False", Reason.HYPERVISOR_AWAY, away.message)
        words = f"{pods} launcher pod{'s' if pods > 1 else ''}; no libvirt of the node itself answers: {away.message}"
        return self._ready("True", Reason.READY, words)

    def _vms(self) -> tuple[HostedVM, ...]:
        claims = [ownership.Claim(*vm) for vm in self._hypervisor.vms()]
        return ownership.hosted(claims, self._default_namespace).vms

    def _ready(self, status: str, reason: Reason, message: str) -> tuple[Condition, ...]:
        condition = Condition.model_validate(
            {
                "type": ConditionType.READY,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": rfc3339(time.time()),
            }
        )
        return put(self._status.conditions, condition)

    def _space(self, body: Body) -> LocationSpace | None:
        """Return what this node sees of a location; sizes in steps of a hundredth, so that not every byte is news."""
        try:
            location = VMBackupLocation.model_validate(body)
        except ValidationError as error:
            log.warning("VMBackupLocation %s cannot be read: %s", body["metadata"]["name"], error)
            return None
        space = look(location.spec.directory.path, location.spec.min_free)
        leftovers = self._leftovers.get(location.spec.directory.path)
        step = max(space.total_bytes // 100, 1)
        return LocationSpace(
            location=location.metadata.name,
            node=self._node,
            ready=space.ready,
            message=cut("; ".join(filter(None, (space.message, leftovers))), LONGEST_REASON),
            free_bytes=space.free_bytes // step * step,
            total_bytes=space.total_bytes,
        )


def methods(host: HostFacts) -> tuple[MethodSupport, ...]:
    """Return which methods this daemon can do, and why or why not."""
    obstacle = push_obstacle(host)
    daemon = f"libvirt {version(host.libvirt_version)}"
    return (
        MethodSupport(method=Method.PUSH, supported=not obstacle, reason=obstacle or f"{daemon} supports full push"),
        MethodSupport(method=Method.SNAPSHOT, supported=True, reason=f"{daemon} supports active block-commit"),
    )


def sorted_by_name(bodies: dict[str, Body]) -> list[Body]:
    return [bodies[name] for name in sorted(bodies)]
