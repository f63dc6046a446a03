"""Sizes as people and Kubernetes write them."""

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

_FACTORS = {
    "": 1,
    "k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4, "P": 1000**5,
    "Ki": KIB, "Mi": MIB, "Gi": GIB, "Ti": TIB, "Pi": 1024 * TIB,
}  # fmt: skip
QUANTITY_PATTERN = r"^[1-9][0-9]{0,14}(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
_QUANTITY = re.compile(r"([0-9]+)(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")


def parse_bytes(quantity: str | int) -> int:
    """Return the bytes of a whole Kubernetes quantity such as `100Mi`, `2G` or `4096`.

    Raises: ValueError: not a whole number with one of the known suffixes.
    """
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is not a size: write a whole number with k, M, G, T, P, Ki, Mi, Gi, Ti or Pi")
    return int(match[1]) * _FACTORS[match[2] or ""]


def human_bytes(size_bytes: float) -> str:
    """Return a size with a binary suffix and at most one decimal: `1.5 GiB`."""
    for suffix, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.1f} {suffix}"
    return f"{size_bytes:.0f} B"


def human_seconds(seconds: float) -> str:
    """Return a duration as people say it: `0.4s`, `42s`, `3m05s`, `2h10m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
