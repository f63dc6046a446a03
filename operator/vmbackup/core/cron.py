"""Times of a cron expression in a time zone, as seconds since the epoch, strictly rising.

Changes of clocks are handled as Debian's cron does: a fixed time that is left out comes right after the gap, one that
comes twice counts once, and expressions with `*` in minute or hour follow the real hours. [cron(8) of Debian]
"""

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

HOUR_SECONDS = 3600.0
# Looking back for the last time: step by step further, so that neither a busy nor a rare schedule costs much.
WINDOWS_SECONDS = tuple(HOUR_SECONDS * hours for hours in (1, 24, 24 * 32, 24 * 366, 24 * 366 * 50))


class Timer:
    """Raises: ValueError: expression or time zone are none, in words for the user."""

    def __init__(self, expression: str, time_zone: str) -> None:
        self._expression = expression
        try:
            self._zone = ZoneInfo(time_zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: it is a directory of the database
            raise ValueError(
                f"timeZone: there is no {time_zone}; write a name of the IANA database such as Europe/Berlin or UTC."
            ) from None
        try:
            CronSim(expression, datetime.fromtimestamp(0, self._zone))
        except CronSimError as error:
            raise ValueError(
                f"schedule: {expression!r} is none: {error}. Write minute, hour, day of month, month, day of week."
            ) from None

    def after(self, at: float) -> Iterator[float]:
        """Yield every time after this moment; none when there is none within 50 years."""
        before = at
        for found in CronSim(self._expression, datetime.fromtimestamp(at, self._zone)):
            time = found.timestamp()
            if time > before:
                before = time
                yield time

    def next(self, at: float) -> float | None:
        return next(self.after(at), None)

    def last(self, after: float, until: float) -> float | None:
        """Return the last time after one moment that is not later than the other."""
        for window in WINDOWS_SECONDS:
            start = max(after, until - window)
            found = None
            for time in self.after(start):
                if time > until:
                    break
                found = time
            if found is not None or start == after:
                return found
        return None
