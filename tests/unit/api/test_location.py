"""VMBackupLocation: paths that administrators may write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vmbackup.api.location import Directory, VMBackupLocationSpec

COMPONENTS = st.text("ab.-_@%+ /~\n\0é", min_size=1, max_size=6)


@pytest.mark.parametrize("path", ["/srv/backups", "/srv/.hidden", "/mnt/a..b/c.d", "/mnt/..a", "/b"])
def test_ordinary_paths_are_taken(path: str) -> None:
    assert Directory(path=path).path == path


@pytest.mark.parametrize(
    "path", ["", "/", "srv", "/srv/", "//srv", "/srv//x", "/..", "/srv/..", "/srv/../etc", "/./srv", "/srv/.", "/a b"]
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        Directory(path=path)


@given(st.lists(COMPONENTS, min_size=1, max_size=4))
def test_no_accepted_path_has_an_empty_or_relative_component(components: list[str]) -> None:
    path = "/" + "/".join(components)
    try:
        accepted = Directory(path=path).path
    except ValidationError:
        return
    assert not {"", ".", "..", "..."} & set(accepted[1:].split("/"))
    assert not set(accepted) & set(" ~\n\0é")


@pytest.mark.parametrize("min_free", ["0", "0%", "5%", "99%", "10Gi", "4096"])
def test_reserve_is_a_percentage_or_a_size(min_free: str) -> None:
    assert VMBackupLocationSpec(directory=Directory(path="/srv/b"), min_free=min_free).min_free == min_free


@pytest.mark.parametrize("min_free", ["", "100%", "-1", "5 %", "1.5Gi", "05%", "5%\n"])
def test_other_reserves_are_refused(min_free: str) -> None:
    with pytest.raises(ValidationError):
        VMBackupLocationSpec(directory=Directory(path="/srv/b"), min_free=min_free)


def test_location_without_a_selector_is_open_to_no_namespace() -> None:
    spec = VMBackupLocationSpec(directory=Directory(path="/srv/b"))
    assert (spec.allowed_namespaces.names, spec.allowed_namespaces.match_labels) == ((), {})
