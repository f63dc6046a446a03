"""What runs where: the releases of libvirt, and the methods that they have."""

import pytest

everywhere = pytest.mark.parametrize(
    ("release", "method"),
    [("9.0", "Push"), ("9.0", "Snapshot"), ("11.3", "Push"), ("11.3", "Snapshot"), ("7.0", "Snapshot")],
)
methods = pytest.mark.parametrize("method", ["Push", "Snapshot"])  # on 9.0
releases = pytest.mark.parametrize("release", ["9.0", "11.3", "7.0"])
pushing = pytest.mark.parametrize("release", ["9.0", "11.3"])
