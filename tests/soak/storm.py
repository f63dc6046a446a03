"""The storm itself: orders and faults at their times, each lane in a thread of its own."""

import random
import threading
from collections.abc import Callable
from functools import partial

from soak.faults import FAULTS, Blow
from soak.history import History
from soak.plan import Order, Plan, Strike
from soak.record import Record
from soak.scene import Scene

UNFINISHED_MAX = 8  # more would only stand in the queue
LATE_SECONDS = 15.0


class Storm:
    def __init__(self, scene: Scene, history: History, record: Record) -> None:
        self.scene, self.history, self.record = scene, history, record
        self.over = threading.Event()  # no new strike; what holds is mended
        self.closing = threading.Event()
        self.still = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lanes: list[threading.Thread] = []
        self._at_rest: list[threading.Event] = []

    def begin(self, plan: Plan, seed: str) -> None:
        self._spawn("orders", partial(self._order_all, plan.orders))
        for lane, strikes in plan.strikes.items():
            self._spawn(lane, partial(self._strike_all, strikes))
        for guest in self.scene.guests.values():
            if guest.writes:
                dice = random.Random(f"{seed}/writes of {guest.name}")  # noqa: S311 - a plan, not a secret
                self.accompany(partial(guest.write_for_ever, self.still, dice))

    def accompany(self, work: Callable[[], None]) -> None:
        """Run something until the scene is still."""
        thread = threading.Thread(target=self._guard, args=(work,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        """Return when every fault is mended."""
        self.over.set()
        for at_rest in self._at_rest:
            at_rest.wait()

    def close(self) -> None:
        """End the threads: what they have started ends with them."""
        self.still.set()
        for thread in self._threads:
            thread.join()
        self.closing.set()

    def stay(self, work: Callable[[], None]) -> None:
        """Run something until the scene is still, in a thread that outlives what it starts."""

        def stay() -> None:
            self._guard(work)
            self.closing.wait()

        threading.Thread(target=stay, daemon=True).start()

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        """A process dies with the thread that started it, so a lane stays until the scene is closed."""
        at_rest = threading.Event()

        def stay() -> None:
            try:
                self._guard(work)
            finally:
                at_rest.set()
            self.closing.wait()

        self._at_rest.append(at_rest)
        threading.Thread(target=stay, name=name, daemon=True).start()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.record.violation("the soak itself failed", threading.current_thread().name, repr(error))
            raise

    def _wait_until(self, at: float) -> bool:
        """Return False when the storm is over before."""
        return not self.over.wait(max(0.0, at - self.record.seconds))

    def _strike_all(self, strikes: tuple[Strike, ...]) -> None:
        for strike in strikes:
            if not self._wait_until(strike.at):
                return
            if self.record.seconds > strike.at + LATE_SECONDS:
                continue  # the fault before took long
            self.record.fault(strike.kind)
            self.record.say(f"FAULT {strike.kind} ({strike.target}) for {strike.hold_seconds:.1f} s")
            blow = Blow(self.scene, strike.target, self.over.wait, self.record.say)
            with FAULTS[strike.kind](blow):
                self.over.wait(strike.hold_seconds)
            self.record.say(f"MENDED {strike.kind} ({strike.target})")

    def _order_all(self, orders: tuple[Order, ...]) -> None:
        moments = [(order.at, order, False) for order in orders]
        moments += [(order.at + order.regret_seconds, order, True) for order in orders if order.regret]
        made: set[str] = set()
        for at, order, regret in sorted(moments, key=lambda moment: moment[0]):
            if not self._wait_until(at):
                return
            if regret:
                if order.name in made:
                    self._regret(order)
            elif len(self.history.unfinished()) < UNFINISHED_MAX:
                self._order(order, made)

    def _order(self, order: Order, made: set[str]) -> None:
        try:
            body = self.scene.order(order.name, order.spec)
        except Exception as error:
            self.record.say(f"{order.name} not made: {_first_line(error)}")
            return
        made.add(order.name)
        self.history.last.setdefault(body["metadata"]["uid"], body)
        self.record.count("backups ordered")
        self.record.say(f"ORDER {order.name} {order.spec} {order.regret}")

    def _regret(self, order: Order) -> None:
        act = self.scene.cancel if order.regret == "cancel" else self.scene.delete
        try:
            act(order.name)
            self.record.say(f"{order.name} {order.regret} asked for")
        except Exception as error:
            self.record.say(f"{order.name} {order.regret} failed: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:160]
