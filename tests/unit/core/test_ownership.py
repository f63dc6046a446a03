"""Which namespace a domain belongs to: an owner's word beats the name, and hostile names reach nobody."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbackup.api.host import HostedVM
from vmbackup.core.ownership import Claim, hosted, owner_of

UUID = "7b0f3c51-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    ("domain", "owner", "default", "expected"),
    [
        ("team-a_web", None, "", ("team-a", "web")),
        ("team-a_web", None, "spare", ("team-a", "web")),
        ("web", None, "spare", ("spare", "web")),
        ("web", None, "", ("", "web")),
        ("web", "team-b", "spare", ("team-b", "web")),
        ("team-a_web", "team-b", "", ("team-b", "team-a_web")),
        ("team-a_web", "team-a", "", ("team-a", "web")),
        ("a_b_c", None, "", ("a", "b_c")),
        ("Team_web", None, "", ("", "Team_web")),
        ("_web", None, "", ("", "_web")),
        ("team-a_", None, "spare", ("spare", "team-a_")),
        ("web", "", "spare", ("", "web")),
        ("team-a_web", "not a namespace", "spare", ("", "team-a_web")),
        ("web", "../kube-system", "", ("", "web")),
        ("x" * 64 + "_web", None, "", ("", "x" * 64 + "_web")),
    ],
)
def test_owner_beats_prefix_beats_default(domain: str, owner: str | None, default: str, expected: object) -> None:
    assert owner_of(domain, owner, default) == expected


@pytest.mark.parametrize(
    "domain",
    [
        "team-a_../../etc",
        "team-a_web\n",
        "team-a_we b",
        "team-a_web/",
        "team-a_-web",
        "team-a_ünï",
        "team-a_web\x00",
        "<script>",
        "",
        "a" * 181,
        "team-a_" + "v" * 181,
    ],
)
def test_names_that_no_vmbackup_can_say_are_left_out_and_counted(domain: str) -> None:
    found = hosted([Claim(domain, UUID, running=True), Claim("team-a_good", UUID, running=True)], "team-a")
    assert [vm.name for vm in found.vms] == ["good"]
    assert found.left_out == 1


def test_a_domain_without_a_proper_uuid_is_left_out() -> None:
    assert hosted([Claim("team-a_web", "UUID", running=True)]).left_out == 1


def test_unclaimed_domains_are_listed_without_a_namespace() -> None:
    (vm,) = hosted([Claim("web", UUID, running=False)]).vms
    assert vm == HostedVM(name="web", namespace="", domain="web", uuid=UUID, running=False)


def test_more_vms_than_a_vmhost_can_list_are_counted() -> None:
    found = hosted(Claim(f"team-a_vm{number}", UUID, running=True) for number in range(5003))
    assert (len(found.vms), found.left_out) == (5000, 3)


@given(domain=st.text(max_size=300), owner=st.none() | st.text(max_size=80), default=st.sampled_from(["", "spare"]))
def test_no_text_breaks_it_or_lands_in_a_namespace_that_it_does_not_name(
    domain: str, owner: str | None, default: str
) -> None:
    for vm in hosted([Claim(domain, UUID, running=True, owner=owner)], default).vms:
        assert vm.domain == domain
        named = owner if owner is not None else domain.partition("_")[0] if "_" in domain else ""
        assert vm.namespace in {"", default, named}
        assert domain.endswith(vm.name)
