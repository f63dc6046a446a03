"""What `helm test` runs: does the installation do its work? Each line says what was looked at; code 1: a fault."""

import os
import sys
import time
from datetime import UTC, datetime

from vmbackup.api import names
from vmbackup.cluster.client import Body, Client
from vmbackup.cluster.resources import LEASE, OURS, VMHOST, Resources
from vmbackup.errors import VMBackupError

NAMESPACE = os.environ["OPERATOR_NAMESPACE"]
WAIT_SECONDS = float(os.environ.get("WAIT_SECONDS", "60"))
FORBIDDEN = ({"resource": "secrets", "verb": "list"}, {"resource": "pods", "subresource": "exec", "verb": "create"})
client = Client(None, field_manager="vmbackup-selfcheck")
resources = Resources(client)


def fresh(lease: Body) -> bool:
    spec = lease.get("spec") or {}
    renewed = datetime.fromisoformat(spec.get("renewTime") or "1970-01-01T00:00:00Z")
    age_seconds = (datetime.now(UTC) - renewed).total_seconds()
    return bool(spec.get("holderIdentity")) and age_seconds <= (spec.get("leaseDurationSeconds") or 0)


def allowed(attributes: dict[str, str]) -> bool:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"namespace": NAMESPACE, **attributes}},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    return bool(client.create(path, review)["status"]["allowed"])


def findings() -> dict[str, bool]:
    leases = {lease["metadata"]["name"]: lease for lease in resources.list(LEASE, NAMESPACE)}
    agents = {name for name, lease in leases.items() if name.startswith(names.LEASE_AGENT_PREFIX) and fresh(lease)}
    hosts = [host["metadata"]["name"] for host in resources.list(VMHOST)]
    leader = leases.get(names.LEASE_CONTROLLER)
    return {
        **{f"{kind.name} is served": resources.serves(kind) for kind in OURS},
        "a controller leads": leader is not None and fresh(leader),
        f"an agent is heard of: {', '.join(sorted(agents)) or 'none'}": bool(agents),
        f"it has written its VMHost: {', '.join(hosts) or 'none'}": any(
            f"{names.LEASE_AGENT_PREFIX}{host}" in agents for host in hosts
        ),
        **{f"the controller may not {right['verb']} {right['resource']}": not allowed(right) for right in FORBIDDEN},
    }


def main() -> int:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            found = findings()
        except VMBackupError as error:
            found = {f"the API server answers: {error}": False}
        if all(found.values()) or time.monotonic() > until:
            break
        time.sleep(2)
    for what, well in found.items():
        print("ok  " if well else "FAIL", what)
    return 0 if all(found.values()) else 1


sys.exit(main())
