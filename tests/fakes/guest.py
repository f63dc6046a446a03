"""The guest of a fake VM, as far as its agent goes: frozen or not, and who keeps the time."""

from collections.abc import Callable
from dataclasses import dataclass

from vmbackup.api.conditions import Reason
from vmbackup.errors import Failed

Clock = Callable[[], float]


@dataclass
class FakeGuest:
    """`agent`: the guest agent is connected. `freezes` and `thaws` count the calls that reached the guest."""

    agent: bool = True
    frozen: bool = False
    freezes: int = 0
    thaws: int = 0
    now: Clock = lambda: 0.0
    _frozen_at: float | None = None
    _thaw_at: float | None = None
    _frozen_milliseconds: int | None = None

    def freeze(self, limit_seconds: float) -> None:
        if not self.agent:
            raise Failed(Reason.GUEST_AGENT_MISSING, "QEMU guest agent is not configured")
        if self.frozen:
            self.thaw()  # as after every freeze that errors
            raise Failed(Reason.FREEZE_FAILED, "the guest was frozen already")
        self.freezes += 1
        self.frozen, self._frozen_at, self._thaw_at = True, self.now(), self.now() + limit_seconds
        self._frozen_milliseconds = None

    def thaw(self) -> int | None:
        """Return how long the guest was frozen in milliseconds; None when nobody of this process froze it."""
        if self.agent:
            self.thaws += 1
            self.wake()
        return self._frozen_milliseconds

    def wake(self) -> None:
        """The guest writes again: thawed, or gone."""
        if self.frozen and self._frozen_at is not None:
            self._frozen_milliseconds = round((self.now() - self._frozen_at) * 1000)
        self.frozen, self._frozen_at, self._thaw_at = False, None, None

    def let_watchdog_bark(self) -> None:
        """Thaw when the limit of the freeze is over."""
        if self.frozen and self._thaw_at is not None and self.now() >= self._thaw_at:
            self.thaw()

    def forget_freeze(self) -> None:
        """Our process died: nobody keeps the time of the freeze any more."""
        self._frozen_at = self._thaw_at = self._frozen_milliseconds = None
