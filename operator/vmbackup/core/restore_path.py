"""Which phases a restore takes, by its target, and for which of them libvirt must be seen."""

from vmbackup.api.restore import RestoreKind, RestorePhase
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome
from vmbackup.core.restore_rules import View

P = RestorePhase


def path_of(run: RestoreRun) -> tuple[RestorePhase, ...]:
    """Return the phases of a restore that goes well."""
    target = run.spec.target
    match run.kind:
        case RestoreKind.NEW_DOMAIN:
            started = (P.STARTING,) if target.new_domain and target.new_domain.start else ()
            return P.PREPARING, P.COPYING, P.VERIFYING, P.PLACING, P.DEFINING, *started, P.CLEANING, P.DONE
        case RestoreKind.DISKS:
            return P.PREPARING, P.COPYING, P.VERIFYING, P.PLACING, P.CLEANING, P.DONE
        case RestoreKind.IN_PLACE:
            started = (P.STARTING,) if target.in_place and target.in_place.start else ()
            return P.PREPARING, P.COPYING, P.VERIFYING, P.PLACING, *started, P.CLEANING, P.DONE
        case RestoreKind.INSTANT:
            return P.PREPARING, P.VERIFYING, P.PLACING, P.STARTING, P.PULLING, P.DEFINING, P.CLEANING, P.DONE
        case RestoreKind.PROOF:
            booted = (P.STARTING, P.PROVING) if target.proof and target.proof.kind == "Boot" else ()
            return P.PREPARING, P.VERIFYING, *booted, P.DISCARDING, P.DONE


def after(run: RestoreRun) -> RestorePhase:
    """Return the phase that follows the present one."""
    path = path_of(run)
    return path[path.index(run.phase) + 1]


def success_at_end(view: View) -> dict[str, object]:
    """Fix success where the path ends: what is left is tidying up."""
    entering = after(view.run)
    return {"outcome": Outcome.SUCCEEDED} if entering in (P.CLEANING, P.DISCARDING) else {}


def needs_hypervisor(run: RestoreRun) -> bool:
    """Return whether the present phase cannot be judged without libvirt."""
    if not run.domain or run.phase in (P.CLEANING, P.DONE):
        return False
    if run.kind is RestoreKind.IN_PLACE:
        return True
    return run.phase not in (P.PREPARING, P.COPYING, P.VERIFYING, P.PLACING) and (
        run.phase is not P.DISCARDING or run.defined
    )
