"""What a soak does and when, drawn from a seed: the same seed draws the same plan.

Every lane has one fault at a time; the lanes know nothing of each other, so faults meet as they happen to.
"""

import random
from dataclasses import dataclass, field
from typing import Any

CALM_SECONDS = 10.0  # before the first fault, and between the last order and the end
ORDER_REST_SECONDS = (0.5, 5.0)
Range = tuple[float, float]


@dataclass(frozen=True)
class Strike:
    """One fault. It holds for so long, then it is mended."""

    at: float
    kind: str
    target: str
    hold_seconds: float


@dataclass(frozen=True)
class Order:
    """One VMBackup, and what its user does with it after a while: nothing, "cancel" or "delete"."""

    at: float
    name: str
    spec: dict[str, Any]
    regret: str = ""
    regret_seconds: float = 0.0


@dataclass(frozen=True)
class Lane:
    """Faults of one part: seconds between two of them, and for each kind its weight and how long it holds."""

    rest_seconds: Range
    kinds: dict[str, tuple[int, Range]]


@dataclass(frozen=True)
class Plan:
    orders: tuple[Order, ...]
    strikes: dict[str, tuple[Strike, ...]] = field(default_factory=dict)


LANES = {
    "agent": Lane(
        (6, 30),
        {
            "agent killed": (4, (0, 12)),
            "agent killed again while it recovers": (2, (0.5, 4)),
            "agent asked to end": (3, (0, 6)),
            "agent stopped": (2, (3, 15)),
            "two agents": (1, (5, 20)),
        },
    ),
    "libvirtd": Lane((15, 60), {"libvirtd killed": (3, (0, 12)), "libvirtd killed twice": (2, (0.5, 6))}),
    "control plane": Lane((60, 200), {"API server away": (2, (2, 15)), "etcd away": (1, (2, 12))}),
    "controller": Lane((90, 240), {"controller killed": (2, (0, 10)), "controller asked to end": (1, (0, 5))}),
    "large": Lane((40, 120), {"location renamed away": (2, (2, 10)), "location deleted": (1, (3, 12))}),
    "small": Lane(
        (15, 60),
        {
            "location filled": (3, (3, 10)),
            "location read-only": (2, (3, 10)),
            "location renamed away": (1, (2, 10)),
            "location deleted": (1, (3, 12)),
        },
    ),
    "children": Lane((10, 40), {"child killed": (1, (1, 6))}),
}
GUEST_LANE = Lane(
    (30, 120),
    {
        "QEMU killed": (3, (0, 6)),
        "guest destroyed": (2, (0, 6)),
        "stranger's block job": (2, (2, 8)),
        "stranger's backup job": (1, (2, 8)),
        "stranger's snapshot": (2, (1, 6)),
    },
)


def draw(seed: str, seconds: float, guests: dict[str, tuple[str, ...]]) -> Plan:
    """Return the plan. guests: the targets of every VM's disks, by the VM's name."""
    lanes = LANES | {f"VM {name}": GUEST_LANE for name in guests}
    strikes = {
        name: tuple(_strikes(_dice(seed, name), name.removeprefix("VM "), lane, seconds))
        for name, lane in lanes.items()
    }
    return Plan(tuple(_orders(_dice(seed, "orders"), seconds, guests)), strikes)


def _strikes(dice: random.Random, target: str, lane: Lane, seconds: float) -> list[Strike]:
    found: list[Strike] = []
    at = CALM_SECONDS + dice.uniform(0, lane.rest_seconds[1])
    while True:
        kind = dice.choices(list(lane.kinds), [weight for weight, _ in lane.kinds.values()])[0]
        hold_seconds = dice.uniform(*lane.kinds[kind][1])
        if at + hold_seconds > seconds:
            return found
        found.append(Strike(at, kind, target, hold_seconds))
        at += hold_seconds + dice.uniform(*lane.rest_seconds)


def _orders(dice: random.Random, seconds: float, guests: dict[str, tuple[str, ...]]) -> list[Order]:
    found: list[Order] = []
    at = 1.0
    while at < seconds - CALM_SECONDS:
        name = f"backup-{len(found):04}"
        regret = dice.choices(["", "cancel", "delete"], [7, 1, 1])[0]
        found.append(Order(at, name, _spec(dice, guests), regret, dice.uniform(0, 15)))
        at += dice.uniform(*ORDER_REST_SECONDS)
    return found


def _spec(dice: random.Random, guests: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    vm = dice.choice(list(guests))
    spec: dict[str, Any] = {
        "source": {"name": vm},
        "location": dice.choices(["large", "small"], [3, 1])[0],
        "method": dice.choices(["Auto", "Push", "Snapshot"], [1, 3, 4])[0],
        "quiesce": dice.choices(["Never", "IfAvailable", "Required"], [2, 5, 1])[0],
        "verify": dice.choices(["None", "Check", "Checksum"], [1, 4, 2])[0],
        "deadlineSeconds": dice.choices([60, 45, 20, 5], [6, 3, 1, 1])[0],
    }
    speed = dice.choices(["", "4Mi", "16Mi", "64Mi"], [3, 2, 3, 2])[0]
    if speed:
        spec["maxBytesPerSecond"] = speed
    overlay = dice.choices([{}, {"maxBytes": "1Mi"}, {"maxSeconds": 10}], [8, 1, 1])[0]
    if overlay:
        spec["overlay"] = overlay
    disks = dice.choices(["all", "one", "unknown"], [20, 2, 1])[0]
    if disks != "all":
        spec["disks"] = {"include": [dice.choice(guests[vm]) if disks == "one" else "vdz"]}
    if dice.random() < 0.05:
        spec["ttlSecondsAfterFinished"] = 5
    return spec


def _dice(seed: str, name: str) -> random.Random:
    return random.Random(f"{seed}/{name}")  # noqa: S311 - a plan, not a secret
