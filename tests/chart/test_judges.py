"""What Helm, Flux and Argo CD say of our resources: the real kstatus, and our health checks in a real Lua."""

import pytest
import yaml

from chart.programs import health, kstatus
from chart.restore_scenes import restores
from chart.scene import Scene
from chart.scenes import CUSTOMIZATIONS, backups, sample_files, scenes
from vmbackup.api.conditions import ConditionType
from vmbackup.api.restore import RestorePhase
from vmbackup.api.vmbackup import Outcome, Phase

SCENES = scenes()
EMPTY = {kind: {"observedGeneration": 0, "phase": "Pending"} for kind in ("VMBackup", "VMRestore")} | {
    "VMBackupSchedule": {"observedGeneration": 0}
}
KINDS = ["VMBackup", "VMRestore", "VMBackupSchedule", "VMBackupLocation", "VMHost"]


def identity(scene: Scene) -> str:
    return f"{scene.kind}-{scene.name}"


def test_every_phase_and_every_outcome_is_shown() -> None:
    statuses = [scene.status for scene in backups()]
    assert {status.phase for status in statuses} >= set(Phase)  # type: ignore[union-attr]
    assert {status.outcome for status in statuses} >= set(Outcome)  # type: ignore[union-attr]


def test_every_phase_of_a_restore_is_shown() -> None:
    statuses = [scene.status for scene in restores()]
    assert {status.phase for status in statuses} >= set(RestorePhase) - {RestorePhase.PENDING}  # type: ignore[union-attr]


def test_kstatus_says_what_we_mean() -> None:
    verdicts = kstatus([scene.body for scene in SCENES])
    wrong = {
        identity(scene): (verdict, "we mean", scene.kstatus)
        for scene, verdict in zip(SCENES, verdicts, strict=True)
        if verdict != scene.kstatus
    }
    assert wrong == {}


@pytest.mark.parametrize("kind", sorted(EMPTY))
def test_kstatus_does_not_take_a_new_resource_for_a_finished_one(kind: str) -> None:
    """Without a status kstatus calls an object Current, and `helm --wait` would not wait: the CRD has a default."""
    scene = next(scene for scene in SCENES if scene.kind == kind)
    assert kstatus([{**scene.body, "status": EMPTY[kind]}]) == ["InProgress"]
    assert kstatus([{key: value for key, value in scene.body.items() if key != "status"}]) == ["Current"]


def test_the_conditions_that_kstatus_reads_are_there_only_when_true() -> None:
    special = (ConditionType.RECONCILING, ConditionType.STALLED)
    shown = [one for scene in SCENES for one in scene.body["status"]["conditions"] if one["type"] in special]
    assert shown
    assert {one["status"] for one in shown} == {"True"}


@pytest.mark.parametrize("scene", SCENES, ids=identity)
def test_health_check_of_argo_cd(scene: Scene) -> None:
    status, message = health(CUSTOMIZATIONS / scene.kind / "health.lua", scene.body)
    assert status == scene.health
    if scene.generation == scene.body["status"].get("observedGeneration", scene.generation):
        assert message == scene.message
    else:
        assert "not seen yet" in message


@pytest.mark.parametrize("kind", KINDS)
def test_health_check_before_anybody_has_looked(kind: str) -> None:
    for status in ({}, {"status": {}}, {"status": EMPTY.get(kind, {})}):
        verdict, message = health(CUSTOMIZATIONS / kind / "health.lua", {"metadata": {"generation": 1}, **status})
        assert verdict == "Progressing"
        assert message


def test_a_finished_backup_stays_finished_when_it_is_cancelled_too_late() -> None:
    done = next(scene for scene in SCENES if scene.name == "done-succeeded").body
    done["metadata"]["generation"] += 1
    assert health(CUSTOMIZATIONS / "VMBackup/health.lua", done)[0] == "Healthy"


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_judged_as_upstream_judges_them(kind: str) -> None:
    """The format of argoproj/argo-cd resource_customizations: health_test.yaml beside health.lua, and testdata/."""
    directory = CUSTOMIZATIONS / kind
    tests = yaml.safe_load((directory / "health_test.yaml").read_text())["tests"]
    assert {test["inputPath"] for test in tests} == {f"testdata/{path.name}" for path in directory.glob("testdata/*")}
    for test in tests:
        body = yaml.safe_load((directory / test["inputPath"]).read_text())
        expected = test["healthStatus"]
        assert health(directory / "health.lua", body) == (expected["status"], expected["message"])


def test_samples_are_what_the_code_reports() -> None:
    files = sample_files()
    stale = [path.name for path, text in files.items() if not path.exists() or path.read_text() != text]
    assert stale == [], "run: PYTHONPATH=operator:tests .venv/bin/python tests/chart/scenes.py"
    assert set(CUSTOMIZATIONS.rglob("*.yaml")) == set(files)
