"""What strikes a walk at one moment of it. Each returns what `World.each_turn` takes."""

from collections.abc import Callable

from vmbackup.core.facts import Wishes
from walk.world import World

EachTurn = Callable[[World, int], None]


def killed_again(first: int, effects: int) -> EachTurn:
    """Kill the agent, which dies at effect `first`, once more so many effects after its restart."""

    def strike(world: World, _turn: int) -> None:
        if world.crashes == 1 and world.strike_at == first:
            world.strike_at = world.effects + effects

    return strike


def daemon_dies_at(moment: int) -> EachTurn:
    """Kill the libvirt daemon; it is back after three turns."""

    def strike(world: World, turn: int) -> None:
        if turn == moment:
            world.hypervisor.kill_daemon()
        if turn == moment + 3:
            world.hypervisor.start_daemon()

    return strike


def cancelled_at(moment: int) -> EachTurn:
    def strike(world: World, turn: int) -> None:
        if turn == moment:
            world.ledger.wish = Wishes(cancel=True)

    return strike


def pod_deleted_at(moment: int) -> EachTurn:
    def strike(world: World, turn: int) -> None:
        if turn == moment and world.domain.alive:
            world.domain.persistent = False
            world.domain.kill_qemu()

    return strike


def guest_dies_at(moment: int) -> EachTurn:
    """Kill the guest; its owner starts it again after four turns."""

    def strike(world: World, turn: int) -> None:
        if turn == moment and world.domain.alive:
            world.domain.kill_qemu()
        if turn == moment + 4 and not world.domain.alive:
            world.domain.restart_guest()

    return strike
