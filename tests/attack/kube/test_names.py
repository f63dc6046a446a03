"""Names that mean more than they should, against the real API server."""

import copy
from typing import Any

import pytest

from attack.kube.conftest import Cluster, vmbackup
from vmbackup.cluster.errors import Denied
from vmbackup.cluster.resources import LOCATION, VMBACKUP

NAMES = [
    "..",
    "../../etc",
    "a/b",
    "/etc/shadow",
    "a\nb",
    "web\n",
    "a\0b",
    "a b",
    "wéb",
    "web\u202egpj",
    "\uff57\uff45\uff42",
    "$(reboot)",
    "-rf",
    ".hidden",
    "%2e%2e",
    "",
    "x" * 253,
]
FIELDS: list[tuple[str, ...]] = [
    ("metadata", "name"),
    ("spec", "source", "name"),
    ("spec", "location"),
    ("spec", "disks", "include"),
]


def changed(body: dict[str, Any], path: tuple[str, ...], value: str) -> dict[str, Any]:
    body = copy.deepcopy(body)
    place = body
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = [value] if path[-1] == "include" else value
    return body


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
@pytest.mark.parametrize("value", NAMES, ids=ascii)
def test_name_that_could_be_a_path_or_a_word_of_a_shell(
    cluster: Cluster, name: str, path: tuple[str, ...], value: str
) -> None:
    if path == ("spec", "location") and len(value) == 253:
        value += "x"  # 253 is what a resource's name may have, and a location's name is never a file's
    with pytest.raises(Denied) as caught:
        cluster.admin.create(VMBACKUP.collection("default"), changed(vmbackup(name), path, value))
    assert "422" in caught.value.message or "400" in caught.value.message


@pytest.mark.parametrize("length", [180, 181])
def test_longest_name_of_a_vm_still_makes_a_file_name(cluster: Cluster, name: str, length: int) -> None:
    body = changed(vmbackup(name), ("spec", "source", "name"), "x" * length)
    if length == 180:
        cluster.admin.create(VMBACKUP.collection("default"), body)
    else:
        with pytest.raises(Denied, match="422"):
            cluster.admin.create(VMBACKUP.collection("default"), body)


@pytest.mark.parametrize(
    "value", ["/srv/../etc", "/srv/a\nb", "/srv/", "srv", "/", "/srv//x", "/srv/.", "/srv/wéb", "/" + "x" * 512]
)
def test_location_that_leads_elsewhere(cluster: Cluster, name: str, value: str) -> None:
    body = {
        "apiVersion": "vmbackup.dev/v1alpha1",
        "kind": "VMBackupLocation",
        "metadata": {"name": name},
        "spec": {"directory": {"path": value}},
    }
    with pytest.raises(Denied, match="422"):
        cluster.admin.create(LOCATION.collection(), body)
