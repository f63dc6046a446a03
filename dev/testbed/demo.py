"""`make demo`: two backups of running VMs, watched and proved; then one VM is lost, and brought back at once."""

import contextlib
import datetime
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from testbed import accident, cluster, proof, telling
from testbed.errors import TestbedError
from testbed.existing import existing
from testbed.holder import LOCATION, NAMESPACE, REPOSITORY
from testbed.images import sequence_numbers
from testbed.tools import tool
from vmbackup.api.vmbackup import VMBackup
from vmbackup.watching import watch

SAMPLES = REPOSITORY / "manifests" / "samples"
BACKUP_SECONDS = 300


@dataclass(frozen=True)
class Place:
    """Where the demo works. `variables`: of the environment, for kubectl and virsh."""

    variables: dict[str, str]
    location: str = LOCATION

    @property
    def uri(self) -> str:
        return self.variables["LIBVIRT_DEFAULT_URI"]

    @property
    def sets(self) -> Path:
        return Path(self.variables["VMBACKUP_LOCATION_PATH"])

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Return kubectl's stdout. Raises TestbedError with its stderr."""
        command = [str(tool("kubectl")), *arguments]
        environment = os.environ | self.variables
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=environment)
        if result.returncode:
            raise TestbedError(f"kubectl {' '.join(arguments)} failed: {result.stderr.strip()}")
        return result.stdout


@dataclass(frozen=True)
class Asked:
    """One backup that was asked for, and how its VM was at that moment. `asked_at`: seconds since the epoch."""

    name: str
    domain: str
    sources: dict[str, str]
    asked_at: float


def run_demo() -> int:
    """Show the main job on real parts; return 0 when everything was proved.

    Raises TestbedError when something does not even come so far.
    """
    console = Console()
    with _place() as place:
        telling.title(console, "1", "The cluster")
        _show(console, place, "get", "vmhosts,vmbackuplocations")
        telling.title(console, "2", "Two backups of running VMs, one by each method")
        number = _number(place)
        asked = [_ask(console, place, "vmbackup-push.yaml"), _ask(console, place, "vmbackup-snapshot.yaml")]
        console.print()
        kubeconfig = Path(place.variables["KUBECONFIG"])
        ended = watch(console, kubeconfig, NAMESPACE, [each.name for each in asked], BACKUP_SECONDS)
        if ended:
            names = " ".join(each.name for each in asked)
            raise TestbedError(f"Not all succeeded, see above and `kubectl -n {NAMESPACE} describe vmb {names}`.")
        backups = [VMBackup.parse(_get(place, each.name)) for each in asked]
        sets = [proof.Set.read(place.sets / str(backup.status.set)) for backup in backups]
        telling.title(console, "3", "The proof")
        proved = [_prove(console, place, *each, number) for each in zip(asked, sets, strict=True)]
        telling.title(console, "4", "The result")
        _show(console, place, "get", "vmb", "-n", NAMESPACE, "-o", "wide")
        telling.tree(console, place.sets, [each.directory for each in sets])
        telling.manifest(console, sets[0])
        telling.times(console, list(zip([each.asked_at for each in asked], backups, sets, strict=True)))
        telling.title(console, "5", "The accident")
        accident.lose(console, place.uri, asked[0].domain)
        telling.title(console, "6", "Back at once")
        vm = asked[0].domain.removeprefix(f"{NAMESPACE}_")
        proved.append(accident.bring_back(console, place.kubectl, place.uri, NAMESPACE, asked[0].name, vm))
    if not all(proved):
        raise TestbedError("A proof failed: see the lines with ✘ above.")
    telling.title(console, "7", "How to go on")
    telling.next_steps(console, asked[0].name, own_cluster=not _wants_existing())
    return 0


@contextlib.contextmanager
def _place() -> Iterator[Place]:
    if _wants_existing():
        with existing() as (variables, location):
            yield Place(variables, location)
        return
    cluster.up()
    yield Place(cluster.environment())


def _wants_existing() -> bool:
    """Return whether a cluster of the user's is to be used. Raises TestbedError for an unknown wish."""
    wish = os.environ.get("CLUSTER", "")
    if wish not in ("", "existing"):
        raise TestbedError(f"CLUSTER={wish} is unknown: leave it out, or say CLUSTER=existing.")
    return wish == "existing"


def _ask(console: Console, place: Place, sample: str) -> Asked:
    """Apply a sample under a name that is new each time."""
    body: dict[str, Any] = yaml.safe_load((SAMPLES / sample).read_text())
    now = datetime.datetime.now(datetime.UTC)
    name = f"{body['metadata']['name']}-{now:%H%M%S}"
    body["metadata"]["name"] = name
    body["spec"]["location"] = place.location
    domain = f"{NAMESPACE}_{body['spec']['source']['name']}"
    sources = proof.sources(place.uri, domain)
    asked_at = time.time()
    said = place.kubectl("apply", "-f", "-", text=json.dumps(body))
    telling.command(console, f"kubectl apply -f manifests/samples/{sample}", f"under the name {name}")
    telling.plain(console, said)
    return Asked(name, domain, sources, asked_at)


def _show(console: Console, place: Place, *arguments: str) -> None:
    telling.command(console, f"kubectl {' '.join(arguments)}")
    telling.plain(console, place.kubectl(*arguments))


def _number(place: Place) -> int:
    """Return the last number that the VM web has written to its first disk."""
    disks = proof.sources(place.uri, f"{NAMESPACE}_web")
    return sequence_numbers(Path(disks["vda"]), Path(disks["vdb"]))[0]


def _get(place: Place, name: str) -> Any:
    return json.loads(place.kubectl("get", "vmb", "-n", NAMESPACE, name, "-o", "json"))


def _prove(console: Console, place: Place, asked: Asked, backup: proof.Set, number: int) -> bool:
    """Say what holds for one set; return whether all of it does."""
    moment = backup.manifest["pointInTime"]
    telling.subject(console, asked.name, f"{backup.manifest['method']} of {asked.domain} as it was at {moment}")
    findings = []
    if asked.domain.endswith("_web"):
        findings.append(proof.one_point_in_time(backup, number, _number(place)))
        findings.append(proof.clean_file_system(backup, "vda"))
    else:
        findings.extend(proof.identical(backup, asked.sources))
    if (backup.directory / "SHA256SUMS").exists():
        findings.append(proof.checksums(backup))
    findings.append(proof.home(place.uri, asked.domain, asked.sources))
    for finding in findings:
        telling.finding(console, finding.good, finding.words)
    return all(finding.good for finding in findings)
