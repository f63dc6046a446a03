"""To which namespace a plain libvirt domain belongs, and by which name its users know it.

In this order: the owner named in the domain's metadata, the name `<namespace>_<name>`, the agent's default namespace.
Domain XML is written by others: what does not fit is left out, never repaired.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vmbackup.api.host import HostedVM
from vmbackup.api.vmbackup import NAME_PATTERN

LONGEST_NAME = 180  # as in api.vmbackup.Source
LONGEST_DOMAIN = 253  # as in api.host.HostedVM
MOST_VMS = 5000  # as in api.host.VMHostStatus
_NAME = re.compile(NAME_PATTERN)
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123 label
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Claim:
    """What a domain says of itself. `owner`: the namespace in its metadata, None when it has no such element."""

    domain: str
    uuid: str
    running: bool
    owner: str | None = None


@dataclass(frozen=True)
class Hosted:
    """The VMs of a node in the order of their domain names, and how many domains could not be listed."""

    vms: tuple[HostedVM, ...]
    left_out: int


def hosted(claims: Iterable[Claim], default_namespace: str = "") -> Hosted:
    """Sort the domains of a node to namespaces. Unclaimed ones keep an empty namespace: nobody can reach them."""
    vms: list[HostedVM] = []
    left_out = 0
    for claim in sorted(claims, key=lambda claim: claim.domain):
        vm = _hosted(claim, default_namespace)
        if vm is None or len(vms) >= MOST_VMS:
            left_out += 1
        else:
            vms.append(vm)
    return Hosted(tuple(vms), left_out)


def _hosted(claim: Claim, default_namespace: str) -> HostedVM | None:
    namespace, name = owner_of(claim.domain, claim.owner, default_namespace)
    if not is_name(name) or len(claim.domain) > LONGEST_DOMAIN or not _UUID.fullmatch(claim.uuid):
        return None
    return HostedVM(name=name, namespace=namespace, domain=claim.domain, uuid=claim.uuid, running=claim.running)


def owner_of(domain: str, owner: str | None, default_namespace: str = "") -> tuple[str, str]:
    """Return namespace and name of a domain; the namespace is empty when nobody claims it.

    An owner element that holds no namespace name keeps the domain from everybody: somebody meant to restrict it.
    """
    prefix, separator, rest = domain.partition("_")
    prefixed = bool(separator and rest and is_namespace(prefix))
    if owner is not None:
        if not is_namespace(owner):
            return "", domain
        return owner, rest if prefixed and prefix == owner else domain
    if prefixed:
        return prefix, rest
    return default_namespace, domain


def is_name(name: str) -> bool:
    """Tell whether a VMBackup can name a VM so."""
    return len(name) <= LONGEST_NAME and _NAME.fullmatch(name) is not None


def is_namespace(name: str) -> bool:
    return _NAMESPACE.fullmatch(name) is not None
