"""Retention: which sets of a VM are kept. Read by schedules, and by locations as the least that is kept."""

from typing import Annotated

from pydantic import ConfigDict, Field

from vmbackup.api.model import Document
from vmbackup.api.schema import explained, rule

RULE_FIELDS = ("keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly")
ANY_RULE = " || ".join(
    f"self.?{name}.orValue(0) > 0"
    for name in ("keepLast", "keepHourly", "keepDaily", "keepWeekly", "keepMonthly", "keepYearly")
)
ZONE_PATTERN = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$"

TimeZone = Annotated[
    str,
    Field(
        max_length=64,
        pattern=ZONE_PATTERN,
        json_schema_extra=explained("Write a time zone of the IANA database: Europe/Berlin, or UTC."),
    ),
]


class KeepRules(Document):
    """How many sets of one VM are kept. A set that any rule keeps stays."""

    model_config = ConfigDict(
        json_schema_extra=rule(ANY_RULE, "Say what is kept: keepLast, keepHourly, keepDaily, and so on, above 0.")
    )

    keep_last: int = Field(default=0, ge=0, le=10000, description="The newest sets, so many.")
    keep_hourly: int = Field(default=0, ge=0, le=10000, description="The newest set of each hour, for so many hours.")
    keep_daily: int = Field(default=0, ge=0, le=10000, description="The newest set of each day, for so many days.")
    keep_weekly: int = Field(default=0, ge=0, le=10000, description="The newest set of each ISO week, for so many.")
    keep_monthly: int = Field(default=0, ge=0, le=10000, description="The newest set of each month, for so many.")
    keep_yearly: int = Field(default=0, ge=0, le=10000, description="The newest set of each year, for so many years.")
    time_zone: TimeZone = Field(default="UTC", description="Where hours, days, weeks, months and years begin.")


class Retention(KeepRules):
    """Which sets of a schedule are kept. All others are removed, with their VMBackups."""

    min_verified: int = Field(
        default=1, ge=0, le=1000, description="The newest verified sets of each VM are never removed, so many."
    )
    dry_run: bool = Field(default=False, description="Remove nothing; the status lists what would go, and why.")
