"""What becomes of libvirt's errors. Codes and domains as real daemons gave them."""

import libvirt
import pytest

from vmbackup.api.conditions import Reason
from vmbackup.errors import Failed, NotYet, Refused, VMBackupError
from vmbackup.hypervisor.failures import attempt

QEMU, RPC, DOMAIN = libvirt.VIR_FROM_QEMU, libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_DOMAIN


def libvirt_error(code: int, domain: int, message: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError("virDomainSomething() failed")
    error.err = (code, domain, message, 2, "", None, None, -1, -1)
    return error


@pytest.mark.parametrize(
    ("code", "domain", "kind", "reason"),
    [
        (1, RPC, NotYet, Reason.HYPERVISOR_AWAY),  # client socket is closed
        (38, RPC, NotYet, Reason.HYPERVISOR_AWAY),  # Failed to connect socket / End of file while reading data
        (68, QEMU, NotYet, Reason.FOREIGN_JOB),  # cannot acquire state change lock
        (42, QEMU, Failed, Reason.VM_NOT_FOUND),
        (55, DOMAIN, Failed, Reason.VM_NOT_RUNNING),  # domain is not running
        (55, QEMU, Failed, Reason.COMMIT_FAILED),
        (83, QEMU, Failed, Reason.COMMIT_FAILED),  # not ready for pivot yet
        (84, QEMU, Failed, Reason.COMMIT_FAILED),
        (67, QEMU, Failed, Reason.COMMIT_FAILED),
        (3, RPC, Refused, Reason.METHOD_UNSUPPORTED),  # unknown procedure
        (88, QEMU, Refused, Reason.COMMIT_FAILED),
        (9999, QEMU, Failed, Reason.COMMIT_FAILED),
    ],
)
def test_code_decides_what_happens_next(code: int, domain: int, kind: type[VMBackupError], reason: Reason) -> None:
    with pytest.raises(VMBackupError) as raised, attempt("VM vm1, disk vda: pivot", Reason.COMMIT_FAILED):
        raise libvirt_error(code, domain, "words of libvirt")
    assert type(raised.value) is kind
    assert raised.value.reason == reason


@pytest.mark.parametrize(("code", "heals"), [(83, True), (67, False), (84, False), (9999, True)])
def test_only_what_can_change_heals(code: int, heals: bool) -> None:
    with pytest.raises(Failed) as raised, attempt("VM vm1"):
        raise libvirt_error(code, QEMU, "words")
    assert raised.value.heals is heals


def test_vm_that_stopped_in_the_midst_may_be_started_again() -> None:
    with pytest.raises(Failed) as raised, attempt("VM vm1"):
        raise libvirt_error(55, DOMAIN, "domain is not running")
    assert raised.value.heals


def test_message_names_the_vm_the_act_libvirts_words_and_what_to_do() -> None:
    with pytest.raises(Failed) as raised, attempt("VM vm1, disk vda: pivot to its base", Reason.COMMIT_FAILED):
        raise libvirt_error(1, QEMU, "QEMU said no")
    for words in ("VM vm1, disk vda: pivot to its base", "QEMU said no", "(error 1)", "log of libvirtd"):
        assert words in raised.value.message


def test_our_own_errors_pass_unchanged() -> None:
    own = Refused(Reason.NO_DISKS, "ours")
    with pytest.raises(Refused) as raised, attempt("VM vm1"):
        raise own
    assert raised.value is own
