"""The contract's places: real daemons are started at first use and live as long as the run."""

from collections.abc import Iterator

import pytest

from contract.fake_site import FakeSite
from contract.real_site import RealSite
from contract.site import Site


@pytest.fixture(scope="session")
def places() -> Iterator[dict[str, Site]]:
    made: dict[str, Site] = {}
    yield made
    for site in made.values():
        if isinstance(site, RealSite):
            site.close()


@pytest.fixture
def site(request: pytest.FixtureRequest, places: dict[str, Site]) -> Iterator[Site]:
    """The place that the test's parameter names: "fake", or "libvirt-" and a release (by default 9.0)."""
    name: str = getattr(request, "param", "libvirt-9.0")
    if name not in places:
        places[name] = FakeSite() if name == "fake" else RealSite(name.removeprefix("libvirt-"))
    place = places[name]
    yield place
    if isinstance(place, RealSite):
        place.tidy()
