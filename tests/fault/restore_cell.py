"""One cell of a restore: how it must end. Either all of it is there, or all is as before."""

import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

from fault.box import NAME, RESTORED
from fault.cell import LEAD_SECONDS, SETTLE_SECONDS, Result
from fault.machine import digest, patiently
from fault.restore import END_SECONDS, Body, Restore
from integration.libvirt.machines import same_content
from testbed.images import qemu_img
from vmbackup.api.restore import RestoreKind
from vmbackup.cluster.errors import NotFound
from vmbackup.cluster.resources import VMRESTORE


class RestoreCell(Restore):
    """What comes after the fault. Times are monotonic seconds."""

    whole = False
    runs = True  # the restored VM, at the end
    result: Result | None = None
    recovery_seconds: float | None = None
    _fault_over_at: float | None = None

    def fault_is_over(self) -> None:
        """Note that from here on the product is on its own."""
        self._fault_over_at = time.monotonic()

    def ends(self, *outcomes: str, says: str = "", reason: str = "") -> None:
        """Wait for the end, and assert all that must hold in every cell.

        says: a pattern that a condition or an Event must have matched at some time: the fault in words.
        """
        body = self.until_over()
        if self._fault_over_at is not None:
            self.recovery_seconds = round(time.monotonic() - self._fault_over_at, 1)
        self._settle()
        assert self.watch is not None
        self.watch.hear(body)
        told = [*self.watch.said, *self.events()]
        matched = [words for words in told if re.search(says, words)] if says else []
        status = body["status"]
        succeeded = next(each for each in status["conditions"] if each["type"] == "Succeeded")
        words = matched[0] if matched else succeeded.get("message", "")
        self._note(status["outcome"], succeeded["reason"], words)
        assert status["outcome"] in (outcomes or ("Succeeded",)), self.all_that_is_known()
        assert not says or matched, f"nobody said {says!r}:\n" + "\n".join(told)
        assert not reason or succeeded["reason"] == reason, succeeded
        assert self.runs or " runs " not in succeeded["message"], succeeded["message"]
        if status["outcome"] == "Succeeded":
            self._assert_restored({disk["name"]: Path(disk["path"]) for disk in status["disks"]})
        else:
            self._assert_undone()
        self._assert_nothing_left()
        self.whole = True

    def vanishes(self) -> None:
        """Wait until the deleted VMRestore is gone: all of it is there, or all is as before."""
        assert patiently(self._is_gone, END_SECONDS), f"the VMRestore stays\n{self.all_that_is_known()}"
        self._settle()
        if restored := self._new_images():
            self._assert_restored(restored)
        else:
            self._assert_undone()
        self._assert_nothing_left()
        self._note("Gone", "Deleted", "restored all the same" if restored else "all is as before")
        self.whole = True

    def told(self) -> Body:
        """Return the result as it may be published: without the paths of this machine."""
        if self.result is None:
            return {}
        return asdict(replace(self.result, said=self.result.said.replace(str(self.stage.place), "")))

    def close(self) -> None:
        self.end_watch()

    def mend(self) -> None:
        """Bring back every part, and remove what the cell has made."""
        stage = self.stage
        stage.agent.go_on()
        stage.front.answer()
        stage.start_cluster()
        stage.start_daemon()
        if not self.whole and stage.agent.runs:
            stage.agent.kill()
            for record in (stage.state / "restores").glob("*"):
                record.unlink()
        stage.controller.start()
        stage.agent.start()
        for body in stage.client.list(VMRESTORE.collection("fault")):
            path = VMRESTORE.path(body["metadata"]["name"], "fault")
            stage.client.call("DELETE", path)
            if not self.whole and not self._is_gone():
                stage.client.patch(path, {"metadata": {"finalizers": None}})
        assert patiently(lambda: not list(stage.client.list(VMRESTORE.collection("fault"))), LEAD_SECONDS)
        self.box.make_whole()
        stage.mend(spoiled=False)

    # -- the two good ends --------------------------------------------------------------------------------------

    def _assert_restored(self, images: dict[str, Path]) -> None:
        """The images show what the set shows, alone; the VM is defined on them; nothing else has changed."""
        disks = json.loads((self.box.set / "manifest.json").read_text())["disks"]
        expected = self.expected or {disk["target"]: self.box.set / disk["file"] for disk in disks}
        assert images.keys() == expected.keys()
        for target, image in images.items():
            assert same_content(image, expected[target]), f"{image} is not what was backed up"
            info = json.loads(qemu_img("info", "-U", "--output=json", str(image)))
            assert "backing-filename" not in info, info
        files, domains = self.box.files(), self.box.domains()
        if self.kind is RestoreKind.IN_PLACE:
            assert files.keys() == self.before_files.keys(), sorted(files.keys() ^ self.before_files.keys())
            assert domains == self.before_domains
            assert self.box.runs(NAME)
            return
        mine = {str(path.parent) for path in images.values()}
        others = {path: value for path, value in files.items() if str(Path(path).parent) not in mine}
        assert others == self.before_files, "files of others were touched"
        assert not [path for path in files if Path(path).name.startswith(".")]
        assert {name: xml for name, xml in domains.items() if name != RESTORED} == self.before_domains
        if self.kind is not RestoreKind.DISKS:
            assert self.box.is_defined(RESTORED)
            assert self.box.runs(RESTORED) == self.runs
            assert all(str(path) in domains[RESTORED] for path in images.values())

    def _assert_undone(self) -> None:
        """The VM is off on its old disks, and there is no other file and no other domain."""
        files = self.box.files()
        assert files == self.before_files, f"not as before: {sorted(files.items() ^ self.before_files.items())}"
        assert self.box.domains() == self.before_domains
        assert not self.box.runs(NAME)

    def _assert_nothing_left(self) -> None:
        assert self.set_files() == self.before_sets, "the sets were touched, or are still held"
        assert not [*self.stage.images.rglob(".*")], "something hidden is left"
        gone = {path: digest(Path(path)) for path in self.stage.old_set if Path(path).exists()}
        assert gone == self.stage.old_set, "an old set was touched"

    def _new_images(self) -> dict[str, Path]:
        """Return the images of a restore whose resource is gone; of one in place, when they differ from the old."""
        new = [Path(path) for path, value in self.box.files().items() if self.before_files.get(path) != value]
        return {path.name.partition(".")[0]: path for path in new if path.name.startswith("vd")}

    # -- waiting ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Wait for what comes shortly after the told end: the journal is emptied, the finalizer goes."""
        forgotten = patiently(lambda: not list((self.stage.state / "restores").glob("*.json")), SETTLE_SECONDS)
        assert forgotten, f"the journal is not empty\n{self.all_that_is_known()}"
        assert patiently(self._is_released, LEAD_SECONDS), f"the finalizer stays: {self.body()['metadata']}"
        self.end_watch()

    def _is_released(self) -> bool:
        try:
            return not self.body()["metadata"].get("finalizers")
        except NotFound:
            return True

    def _is_gone(self) -> bool:
        try:
            self.body()
        except NotFound:
            return True
        return False

    def _note(self, outcome: str, reason: str, said: str) -> None:
        self.result = Result(outcome, reason, 1, self.recovery_seconds, said[:300], self.number)
