"""Import: every whole set gets one VMBackup, once, whatever happens in between; and nothing is backed up for it."""

from pathlib import Path
from typing import Any, cast

import pytest

from fakes.apiserver import FakeApiServer, failing
from fakes.objects import T0, backup_body, host, location, vm
from unit.store.published import make_set
from vmbackup.api.vmbackup import VMBackup
from vmbackup.cluster.client import Client
from vmbackup.cluster.errors import APIServerAway
from vmbackup.cluster.resources import LOCATION, VMBACKUP, Resources
from vmbackup.core.children import child_of
from vmbackup.core.turns import Limits, Scene, plan_turns
from vmbackup.errors import Refused
from vmbackup.importing import Question, import_sets


class Site:
    def __init__(self, directory: Path) -> None:
        self.server, self.directory = FakeApiServer(), directory
        body = location("nightly", directory={"path": str(directory)}).model_dump(mode="json", by_alias=True)
        self.server.put(LOCATION.path("nightly"), body)

    def run(self, **more: Any) -> dict[str, str]:
        """Import, and return what became of the set of each UID."""
        question = Question(None, more.pop("directory", self.directory), "nightly", "team-a", **more)
        told = import_sets(Resources(cast(Client, self.server)), question)
        return {entry.path.rpartition("-")[2]: said for entry, said in told}

    def backups(self) -> dict[str, VMBackup]:
        bodies = (body for path, body in self.server.objects.items() if "/vmbackups/" in path)
        return {backup.metadata.name: backup for backup in map(VMBackup.parse, bodies)}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_set_becomes_a_finished_backup_that_says_what_the_manifest_says(site: Site) -> None:
    make_set(site.directory, "one-uid", backupName="web-1", verified="Checksum")
    assert site.run(schedule="daily") == {"uid": "imported"}
    backup = site.backups()["web-1"]
    assert backup.finished
    assert (backup.spec.source.name, backup.spec.location, backup.status.node) == ("web", "nightly", "n1")
    child = child_of(backup)
    assert (child.schedule, child.succeeded) == ("daily", True)
    assert child.set is not None
    assert (child.set.verified, child.set.broken) == (True, False)
    assert backup.status.start_time == "2026-09-22T02:30:00Z"


def test_done_again_it_makes_nothing_twice(site: Site) -> None:
    make_set(site.directory, "one")
    assert site.run() == {"one": "imported"}
    assert site.run() == {"one": "known"}
    assert len(site.backups()) == 1


def test_a_backup_that_is_still_there_is_not_made_again(site: Site) -> None:
    make_set(site.directory, "one")
    body = backup_body("nightly", metadata={"uid": "one"}, status={"phase": "Done", "outcome": "Succeeded"})
    site.server.put(VMBACKUP.path("nightly", "team-a"), body)
    assert site.run() == {"one": "known"}


def test_sets_of_one_name_get_resources_of_their_own(site: Site) -> None:
    for uid in ("one", "two"):
        make_set(site.directory, uid)
    assert set(site.run().values()) == {"imported"}
    assert sorted(site.backups()) == ["nightly", "nightly-two"]


def test_cut_off_between_resource_and_status_it_goes_on_and_nothing_is_backed_up(site: Site) -> None:
    make_set(site.directory, "one")
    site.server.trouble = failing(1, method="PATCH")
    with pytest.raises(APIServerAway):
        site.run()
    half = site.backups()["nightly"]
    assert not half.finished
    scene = Scene([half], {"n1": host("n1", vm("web", 1))}, {"nightly": location()}, {"team-a": {}}, {"n1"})
    assert plan_turns(scene, Limits(), T0) == []
    assert site.run() == {"one": "imported"}
    assert site.backups()["nightly"].finished


def test_damaged_sets_and_those_of_others_are_left_out(site: Site) -> None:
    broken = make_set(site.directory, "one")
    (broken / "vda.qcow2").unlink()
    theirs = make_set(site.directory, "two")
    (site.directory / "team-b" / "web").mkdir(parents=True)
    theirs.rename(site.directory / "team-b" / "web" / theirs.name)
    assert site.run() == {"one": "damaged"}
    assert site.backups() == {}


def test_an_unverified_set_is_not_said_to_be_verified(site: Site) -> None:
    make_set(site.directory, "one", verified="SomethingNew")
    site.run()
    child = child_of(site.backups()["nightly"])
    assert child.set is not None
    assert (child.set.verified, child.set.broken) == (False, False)


def test_a_directory_that_is_not_the_locations_is_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="VMBackupLocation nightly is"):
        site.run(directory=tmp_path / "else")
    assert site.backups() == {}
