"""The published sets: each is looked at when it appears, and again before it goes: it must be good and unchanged."""

import hashlib
import json
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from soak.places import Place
from soak.record import Record
from soak.scene import Scene
from testbed.errors import TestbedError
from testbed.images import sequence_numbers
from testbed.proof import Set

LOOK_SECONDS = 2.0
KEPT = {"large": 40, "small": 2}  # the disk is finite: older ones are compared once more and removed


@dataclass
class Published:
    place: Place
    path: Path
    uid: str
    digests: dict[str, str]


class Sets:
    """One thread looks at all locations."""

    def __init__(self, scene: Scene, record: Record) -> None:
        self.scene, self.record = scene, record
        self.known: dict[Path, Published] = {}
        self.uids: Counter[str] = Counter()

    def watch(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        for place in self.scene.places.values():
            with place.still:
                fresh = [path.parent for path in place.manifests() if path.parent not in self.known]
            for path in fresh:
                with place.still:
                    self._welcome(place, path)
            mine = [published for published in self.known.values() if published.place is place]
            for published in mine[: max(0, len(mine) - KEPT[place.name])]:
                self._send_off(published)

    def compare_all(self) -> None:
        for published in list(self.known.values()):
            self._compare(published)

    def _welcome(self, place: Place, path: Path) -> None:
        self.record.count("sets")
        backup = Set.read(path)
        uid = str(backup.manifest["backupUid"])
        self.known[path] = Published(place, path, uid, _digests(path))
        self.uids[uid] += 1
        if self.uids[uid] > 1:
            self.record.violation("two sets of one backup", str(path), uid)
        for target in (disk["target"] for disk in backup.manifest["disks"]):
            words = _fault_of(backup, target)
            if words:
                self.record.violation("bad image in a set", f"{path} {target}", words)
        self._one_moment(backup)

    def _one_moment(self, backup: Set) -> None:
        targets = {disk["target"] for disk in backup.manifest["disks"]}
        if backup.manifest["vm"] != self.scene.counter.name or targets != {"vda", "vdb"}:
            return
        try:
            a, b = sequence_numbers(backup.image("vda"), backup.image("vdb"))
        except TestbedError as error:
            self.record.violation("set without a sequence number", str(backup.directory), str(error))
            return
        self.record.count("sets of two disks at one moment")
        if not b <= a <= b + 1:
            words = f"vda holds {a}, vdb holds {b}; method {backup.manifest['method']}"
            self.record.violation("images of two moments", str(backup.directory), words)

    def _compare(self, published: Published) -> None:
        with published.place.still:
            try:
                now = _digests(published.path)
            except OSError as error:
                now = {str(error): ""}
        if now != published.digests:
            self.record.violation("published set changed", str(published.path), f"{published.digests} -> {now}")

    def _send_off(self, published: Published) -> None:
        self._compare(published)
        with published.place.still:
            try:
                published.place.make_room(published.path)
            except OSError:
                return  # read-only just now
        del self.known[published.path]


def _fault_of(backup: Set, target: str) -> str:
    """Return what is wrong with an image, empty when nothing is."""
    disk = next(disk for disk in backup.manifest["disks"] if disk["target"] == target)
    image = backup.image(target)
    told = subprocess.run(
        ["qemu-img", "info", "--output=json", str(image)], capture_output=True, text=True, check=False
    )
    if told.returncode:
        return told.stderr
    info = json.loads(told.stdout)
    if info["format"] != disk["format"] or info["virtual-size"] != disk["virtualBytes"] or "backing-filename" in info:
        return f"{info} is not what the manifest says: {disk}"
    if disk["format"] == "qcow2":
        checked = subprocess.run(["qemu-img", "check", "-q", str(image)], capture_output=True, text=True, check=False)
        if checked.returncode:
            return checked.stdout + checked.stderr
    return ""


def _digests(directory: Path) -> dict[str, str]:
    found = {}
    for path in sorted(directory.iterdir()):
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
