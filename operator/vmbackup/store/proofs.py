"""The result of a set's last proof, beside its manifest."""

import os
from contextlib import suppress

from pydantic import ValidationError

from vmbackup.api.conditions import Reason
from vmbackup.api.proof import ProofFile
from vmbackup.api.restore_journal import RestoreRun
from vmbackup.api.vmbackup import Outcome, Verify
from vmbackup.core.kstatus import rfc3339
from vmbackup.errors import Failed
from vmbackup.store.paths import open_file, write_file

PROOF_FILE = "proof.json"
_BYTES_MAX = 1024 * 1024


def read(directory: int) -> ProofFile | None:
    """Return the last proof of an open set, None when there is none that can be read."""
    with suppress(FileNotFoundError, ValidationError, Failed):
        file = open_file(directory, PROOF_FILE)
        try:
            return ProofFile.model_validate_json(os.read(file, _BYTES_MAX))
        finally:
            os.close(file)
    return None


def write(directory: int, run: RestoreRun, now: float) -> None:
    """Write what a proof has found, in place of the one before. Raises: OSError."""
    proof, failure = run.spec.target.proof, run.failure
    assert proof is not None, "only proofs have a result"
    found = ProofFile(
        kind=proof.kind,
        succeeded=run.outcome is Outcome.SUCCEEDED,
        broken=failure is not None and failure.reason is Reason.VERIFICATION_FAILED,
        heartbeat=run.proof.heartbeat if run.proof else "",
        seconds=run.proof.seconds if run.proof else 0,
        evidence=run.proof.evidence if run.proof else "",
        message=failure.message if failure else "",
        verified=verified(run),
        at=rfc3339(now),
        node=run.node,
        restore=run.key,
    )
    write_file(directory, PROOF_FILE, found.model_dump_json(by_alias=True, indent=2).encode() + b"\n")
    os.fsync(directory)


def verified(run: RestoreRun) -> Verify:
    """Return how far the images were verified: digests only where the set has them."""
    hashed = all(disk.sha256 for disk in run.disks)
    return Verify.CHECK if run.spec.verify is Verify.CHECKSUM and not hashed else run.spec.verify
