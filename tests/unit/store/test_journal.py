from pathlib import Path

import pytest

from fakes.sample import DOMAIN_UUID, OTHER_UID
from vmbackup.api.journal import Run
from vmbackup.api.vmbackup import Phase
from vmbackup.errors import Failed, NotYet
from vmbackup.store.journal import NodeJournal


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_record_outlives_the_process(state: Path, run: Run) -> None:
    NodeJournal(state).record(run)
    later = run.model_copy(update={"phase": Phase.COPYING})
    NodeJournal(state).record(later)
    assert NodeJournal(state).runs() == (later,)


def test_record_is_private_text_that_people_can_read(state: Path, run: Run) -> None:
    NodeJournal(state).record(run)
    assert f'"uid": "{run.uid}"' in (state / "runs" / f"{run.uid}.json").read_text()
    assert (state / "runs").stat().st_mode & 0o777 == 0o700


def test_forgotten_record_is_gone_and_may_be_forgotten_again(state: Path, run: Run) -> None:
    journal = NodeJournal(state)
    journal.record(run)
    journal.forget(run)
    journal.forget(run)
    assert journal.runs() == ()


def test_half_written_record_does_not_hide_the_one_before(
    state: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = NodeJournal(state)
    journal.record(run)

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(Failed, match=r"cannot be written \(No space left on device\)"):
            journal.record(run.model_copy(update={"phase": Phase.COPYING}))
    assert NodeJournal(state).runs() == (run,)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schemaVersion": 99}', b"\xff\xfe"])
def test_record_that_cannot_be_read_is_moved_aside_and_told(
    state: Path, run: Run, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    journal = NodeJournal(state)
    journal.record(run)
    (state / "runs" / f"{OTHER_UID}.json").write_bytes(content)
    assert journal.runs() == (run,)
    aside = state / "runs" / f"{OTHER_UID}.broken"
    assert aside.read_bytes() == content
    assert journal.broken == [aside]
    assert OTHER_UID in caplog.text
    assert journal.runs() == (run,)
    assert journal.broken == [aside]


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", "a/b", ".hidden"])
def test_uid_cannot_name_a_file_elsewhere(state: Path, run: Run, uid: str) -> None:
    with pytest.raises(Failed, match="is no UID"):
        NodeJournal(state).record(run.model_copy(update={"uid": uid}))


def test_second_worker_of_a_vm_has_to_wait(state: Path) -> None:
    first, second = NodeJournal(state), NodeJournal(state)
    with first.lock(DOMAIN_UUID):
        with pytest.raises(NotYet, match=f"another backup of the VM {DOMAIN_UUID}"), second.lock(DOMAIN_UUID):
            pass
        with second.lock(OTHER_UID):
            pass
    with second.lock(DOMAIN_UUID):
        pass
