"""When no fault holds any more, everything must come to rest; then nothing of ours may be left."""

import hashlib
import re
from pathlib import Path

import libvirt

from soak.guests import Guest
from soak.history import History, message, wait_until
from soak.record import Record
from soak.scene import Body, Scene
from soak.sets import Sets

SETTLE_SECONDS = 150.0  # a deadline of 60 s, a way home, a queue: on two cores that others use too
EPILOGUE_SECONDS = 150.0


def settle(scene: Scene, history: History, record: Record) -> None:
    """Wait until all is at rest; what is not by then is a violation each."""

    def at_rest() -> bool:
        return all(record.known(kind, subject) for kind, subject, _ in unsettled(scene, history))

    wait_until(at_rest, SETTLE_SECONDS)
    record.say(f"settled: {at_rest()}")
    for kind, subject, words in unsettled(scene, history):
        record.violation(kind, subject, words)


def unsettled(scene: Scene, history: History) -> list[tuple[str, str, str]]:
    """Return what is not as it must be on an idle node: kind, subject, words."""
    try:
        history.look()
    except Exception as error:  # whatever the API server's absence raises
        return [("API server away", "control plane", str(error))]
    found = [("backup not over", _name(body), str(body.get("status"))) for body in history.unfinished()]
    found += [("finalizer left", _name(body), str(body["metadata"])) for body in history.not_let_go()]
    excused = excused_overlays(scene, history)
    found += [("overlay left", path.name, str(path)) for path in scene.overlays() if path.name not in excused]
    found += [("record left in the journal", path.name, path.read_text()) for path in scene.records() if path.exists()]
    for place in scene.places.values():
        found += [("unfinished set left", str(path), place.name) for path in place.partials()]
    for guest in scene.guests.values():
        words = _not_home(guest)
        if words:
            found.append(("VM not home", guest.name, words))
    if scene.counter.frozen():
        found.append(("the guest is frozen", scene.counter.name, "at the end"))
    return found


def excused_overlays(scene: Scene, history: History) -> set[str]:
    """Return overlays that a Stranded backup names. Strangers alone can strand a backup: they cut into the chain."""
    names: set[str] = set()
    for body in history.last.values():
        vm = scene.guests[body["spec"]["source"]["name"]]
        if body.get("status", {}).get("outcome") == "Stranded" and vm.strange_snapshots:
            names |= set(re.findall(r"\.vmbackup\.\S+?\.overlay", message(body)))
    return names


def epilogue(scene: Scene, history: History, record: Record) -> None:
    """After all that, every VM can be backed up by both methods."""
    ordered = []
    for guest in scene.guests.values():
        for method in ("Push", "Snapshot"):
            name = f"epilogue-{guest.name}-{method.lower()}"
            spec = {"source": {"name": guest.name}, "location": "large", "method": method, "verify": "Check"}
            ordered.append(scene.order(name, spec)["metadata"]["uid"])

    def over() -> bool:
        history.look()
        return all(_phase(history.last.get(uid)) == "Done" for uid in ordered)

    wait_until(over, EPILOGUE_SECONDS)
    for uid in ordered:
        body = history.last.get(uid, {})
        if body.get("status", {}).get("outcome") != "Succeeded":
            record.violation("no backup after the storm", _name(body), f"{message(body)} {body.get('status')}")


def judge_sets(history: History, sets: Sets, record: Record) -> None:
    """A set belongs to a success, and to nothing else."""
    for published in sets.known.values():
        body = history.last.get(published.uid)
        if body is None:
            record.violation("set of an unknown backup", str(published.path), published.uid)
        elif published.uid in history.present and body["status"].get("outcome") != "Succeeded":
            record.violation("set of a backup that did not succeed", str(published.path), str(body["status"]))


def judge_disks(scene: Scene, record: Record, golden_digest: str) -> None:
    """Look at the disks themselves, with the VMs off: everything that a guest has written is there."""
    for guest in scene.guests.values():
        guest.call(lambda domain: domain.destroy() if domain.isActive() else None)
        lost = guest.lost_writes()
        record.count("slots compared", len(guest.slots))
        if lost:
            record.violation("writes of the guest are lost", guest.name, "; ".join(lost))
    if digest_of(scene.golden) != golden_digest:
        record.violation("golden image changed", str(scene.golden), golden_digest)


def digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _not_home(guest: Guest) -> str:
    try:
        finding = guest.is_home()
    except libvirt.libvirtError as error:
        return str(error)
    return "" if finding.good else finding.words


def _name(body: Body) -> str:
    return str(body.get("metadata", {}).get("name"))


def _phase(body: Body | None) -> str:
    return str((body or {}).get("status", {}).get("phase"))
