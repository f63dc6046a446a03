"""The API server is away, overloaded or full of conflicts; the user takes back what was asked for."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fault.cell import Cell
from fault.machine import NAMESPACE
from fault.rows import ON_OVERLAY, PUSH, SNAPSHOT, column
from vmbackup.cluster.resources import VMBACKUP
from vmbackup.errors import VMBackupError

AWAY_SECONDS = {
    "api-away": 6,
    "api-away-60s": 60,
    "etcd-stopped-12s": 12,
    "etcd-stopped-60s": 60,
    "api-killed": 2,
}
ERRORS = {"api-answers-429": 429, "api-answers-500": 500}


@column("api-away", push=PUSH, snapshot=SNAPSHOT)
@column("api-away-60s", push=("Copying",), snapshot=("Copying", "Committing"))
@column("etcd-stopped-12s", push=("Copying",), snapshot=("Copying",))
@column("etcd-stopped-60s", push=("Copying",), snapshot=("Copying",))
@column("api-killed", push=("Copying",), snapshot=("Committing",))
def test_vm_goes_home_without_the_api_server(cell: Cell) -> None:
    cell.catch()
    stage = cell.stage
    if cell.fault.startswith("etcd"):
        stage.stop_etcd()
    elif cell.fault == "api-killed":
        stage.stop_apiserver()
    else:
        stage.front.hang_up()
    gone_at = time.monotonic()
    stage.agent.go_on()
    cell.fault_is_over()  # for the VM it is none: it must come home meanwhile
    cell.until_home()
    time.sleep(max(0.0, gone_at + AWAY_SECONDS[cell.fault] - time.monotonic()))
    stage.start_cluster()
    stage.front.answer()
    cell.ends(attempts=1)


@column("api-away-agent-killed", push=("Copying",), snapshot=ON_OVERLAY)
def test_agent_is_killed_while_the_api_server_is_away(cell: Cell) -> None:
    cell.catch()
    cell.stage.front.hang_up()
    cell.stage.agent.kill()
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.stage.front.answer()
    cell.stage.agent.start()  # as a kubelet does, if it has ended
    cell.ends()


@column("api-answers-429", push=("Copying",), snapshot=("Copying", "Committing"))
@column("api-answers-500", push=("Copying",), snapshot=("Copying", "Committing"))
def test_api_server_answers_with_errors(cell: Cell) -> None:
    cell.catch()
    code = ERRORS[cell.fault]
    cell.stage.front.verdict = lambda _method, path: code if "/vmbackups" in path else None
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    time.sleep(3)
    assert cell.stage.front.refused, "the agent asked for nothing"
    cell.stage.front.answer()
    cell.ends(attempts=1)


@column("status-conflicts", push=("Copying",), snapshot=("Copying",))
def test_somebody_else_writes_the_resource_all_the_time(cell: Cell) -> None:
    cell.catch()
    with scribbler(cell) as written:
        cell.stage.agent.go_on()
        cell.fault_is_over()
        cell.until_home()
        cell.until_over()
    assert written, "nobody wrote"
    cell.ends(attempts=1)


@contextmanager
def scribbler(cell: Cell) -> Iterator[list[int]]:
    """Change an annotation of the VMBackup as fast as the API server lets us."""
    ended, written = threading.Event(), []

    def scribble() -> None:
        number = 0
        while not ended.wait(0.005):
            number += 1
            body = {"metadata": {"annotations": {"scribble": str(number)}}}
            with suppress(VMBackupError):
                cell.stage.client.patch(VMBACKUP.path(cell.name, NAMESPACE), body)
                written.append(number)

    thread = threading.Thread(target=scribble, daemon=True)
    thread.start()
    try:
        yield written
    finally:
        ended.set()
        thread.join()


@column("vmbackup-deleted", push=PUSH, snapshot=SNAPSHOT)
def test_vmbackup_is_deleted_meanwhile(cell: Cell) -> None:
    cell.catch()
    cell.delete()
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    # What was verified already may be published before the deletion is heard; it is whole then.
    cell.vanishes(sets_at_most=1 if cell.phase in ("Verifying", "Publishing") else 0)


@column("vmbackup-deleted-agent-killed", push=("Copying",), snapshot=("Copying", "Committing", "Cleaning"))
def test_vmbackup_is_deleted_while_the_agent_is_away(cell: Cell) -> None:
    cell.catch()
    cell.stage.agent.kill()
    cell.delete()
    time.sleep(1)
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.vanishes(sets_at_most=1)


@column("vmbackup-torn-away", push=("Copying",), snapshot=("Copying", "Pivoting"))
def test_vmbackup_is_deleted_and_its_finalizer_removed_by_force(cell: Cell) -> None:
    """The resource is long gone; the VM comes home all the same, and nothing of ours stays."""
    cell.catch()
    cell.stage.agent.kill()
    cell.delete()
    cell.stage.client.patch(VMBACKUP.path(cell.name, NAMESPACE), {"metadata": {"finalizers": None}})
    cell.stage.agent.start()
    cell.fault_is_over()
    cell.until_home()
    cell.vanishes(sets_at_most=1)


@column("location-deleted", push=("Starting", "Copying", "Verifying"), snapshot=("Copying", "Committing", "Publishing"))
def test_location_is_deleted_meanwhile(cell: Cell) -> None:
    """The run knows its paths; what an administrator takes from new backups is not taken from one under way."""
    cell.catch()
    cell.stage.delete_location(cell.location)
    cell.stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    cell.ends()


@column("token-expired", push=("Copying",), snapshot=("Copying", "Committing"))
def test_agents_token_is_no_longer_good(cell: Cell) -> None:
    cell.catch()
    stage = cell.stage
    stage.revoke_token()
    stage.agent.go_on()
    cell.fault_is_over()
    cell.until_home()
    time.sleep(2)
    stage.new_token()
    stage.agent.restart_as_kubelet()
    cell.ends(attempts=1)
