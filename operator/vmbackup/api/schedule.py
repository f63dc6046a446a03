"""VMBackupSchedule: VMBackups by the clock, for one VM or many, and which of their sets are kept."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from vmbackup.api.conditions import Conditions
from vmbackup.api.model import Document, Report
from vmbackup.api.proof_policy import ProofPolicy
from vmbackup.api.retention import Retention, TimeZone
from vmbackup.api.schema import ATOMIC, DISTINCT, explained, rule
from vmbackup.api.spec import NAME_PATTERN, BackupSettings, SourceKind
from vmbackup.api.vmbackup import ObjectMeta, Timestamp

LONGEST_SCHEDULE_NAME = 40
CRON_PATTERN = r"^[0-9A-Za-z*/,#-]+( [0-9A-Za-z*/,#-]+){4}$"
EITHER_SELECTION = "Name VMs in names, or say in match which names are meant: one of the two."
NO_TTL = (
    "With retention, leave ttlSecondsAfterFinished out of the template: a set whose VMBackup is gone is seen by no "
    "retention and would stay for ever."
)

VMName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=180,
        pattern=NAME_PATTERN,
        json_schema_extra=explained(
            "Write a VM's name with letters, digits, '.', '_' and '-'; it starts and ends with a letter or a digit."
        ),
    ),
]
VMGlob = Annotated[
    str,
    Field(
        min_length=1,
        max_length=180,
        pattern=r"^[A-Za-z0-9._*?-]+$",
        json_schema_extra=explained("Write a VM's name, with '*' for any characters and '?' for one: web-*."),
    ),
]


class ConcurrencyPolicy(StrEnum):
    ALLOW = "Allow"
    FORBID = "Forbid"
    REPLACE = "Replace"


class LastResult(StrEnum):
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class VMSelector(Document):
    """VMs of the schedule's own namespace: by name, or all whose name matches."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "(self.?names.orValue([]).size() > 0) != (self.?match.orValue([]).size() > 0)", EITHER_SELECTION
        )
    )

    kind: SourceKind = Field(default=SourceKind.DOMAIN, description="What the VMs are: source.kind of their VMBackups.")
    names: tuple[VMName, ...] = Field(
        default=(),
        max_length=256,
        description="These VMs. One that is missing makes its run fail.",
        json_schema_extra=DISTINCT,
    )
    match: tuple[VMGlob, ...] = Field(
        default=(),
        max_length=32,
        description="VMs seen by any agent at the time of the run whose name matches one of these: '*' means all.",
        json_schema_extra=DISTINCT,
    )
    exclude: tuple[VMGlob, ...] = Field(
        default=(), max_length=64, description="But not the VMs that match one of these.", json_schema_extra=DISTINCT
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if bool(self.names) == bool(self.match):
            raise ValueError(EITHER_SELECTION)
        return self


class BackupTemplate(Document):
    """The VMBackups that are made. No label and no annotation of the schedule is copied to them."""

    spec: BackupSettings = Field(description="As in a VMBackup, without source and cancel.")


class VMBackupScheduleSpec(Document):
    """When, which VMs, how, and what is kept."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            "!has(self.retention) || !has(self.template.spec.ttlSecondsAfterFinished)",
            NO_TTL,
            field=".template.spec.ttlSecondsAfterFinished",
        )
    )

    schedule: str = Field(
        min_length=9,
        max_length=200,
        pattern=CRON_PATTERN,
        description=(
            "Minute, hour, day of month, month, day of week, as in Debian's cron: 30 2 * * * is half past two each "
            "night. Also MON-FRI, JAN, L (last day of month) and 5L or 1#2 (last Friday, second Monday)."
        ),
        json_schema_extra=explained(
            "Write five fields with one blank between them: minute, hour, day of month, month, day of week: 30 2 * * *."
        ),
    )
    time_zone: TimeZone = Field(
        default="UTC",
        description=(
            "Where the schedule's hours are meant. When clocks go forward, a fixed time that is left out runs right "
            "after the gap; when they go back, one that comes twice runs the first time only."
        ),
    )
    suspend: bool = Field(default=False, description="No runs by the clock. What was left out is not made up for.")
    concurrency_policy: ConcurrencyPolicy = Field(
        default=ConcurrencyPolicy.FORBID,
        description=(
            "What happens when a VM's former backup of this schedule is not over. With Forbid that VM is left out this "
            "time, with Allow a second one is made and waits for the first, with Replace the former one is cancelled."
        ),
    )
    starting_deadline_seconds: int | None = Field(
        default=None,
        ge=10,
        le=31536000,
        description=(
            "How late a run may begin when nobody was there at its time. By default as late as it takes; of several "
            "that were missed only the last is made up for."
        ),
    )
    jitter_seconds: int = Field(
        default=0,
        ge=0,
        le=86400,
        description=(
            "Runs begin up to so much later than the schedule says, to spread many schedules of one time. "
            "Always the same for one schedule."
        ),
    )
    vms: VMSelector
    trigger: str = Field(
        default="",
        max_length=128,
        description=(
            "Run now: each new value makes one run, at once, also while suspended. Any text: a date, a commit. "
            "status.lastTrigger shows the last one."
        ),
    )
    template: BackupTemplate
    retention: Retention | None = Field(
        default=None, description="Which sets are kept. Without it, nothing is ever removed."
    )
    proof: ProofPolicy | None = Field(
        default=None, description="What is proved of the sets. Without it, nothing is booted or read again."
    )
    failed_history_limit: int = Field(
        default=3, ge=1, le=1000, description="Failed VMBackups to keep for each VM; older ones are removed."
    )

    @model_validator(mode="after")
    def _lifetime(self) -> Self:
        if self.retention is not None and self.template.spec.ttl_seconds_after_finished is not None:
            raise ValueError(NO_TTL)
        return self


class Timetable(Report):
    """What the clock is counted by. A changed schedule makes up for nothing that was before."""

    text: str = Field(max_length=300, description="Schedule and time zone that are in force; empty while suspended.")
    since: Timestamp = Field(description="Times up to this one are over.")


class SetVerdict(Report):
    """What retention says of one set."""

    name: str = Field(max_length=63, description="Name of the VMBackup that the set belongs to.")
    vm: str = Field(max_length=180, description="Name of the VM in this namespace.")
    keep: bool = Field(description="Whether the set stays.")
    reasons: tuple[Annotated[str, Field(max_length=256)], ...] = Field(
        max_length=32, description="Why, rule by rule.", json_schema_extra=ATOMIC
    )


class RetentionReport(Report):
    """What retention says, the sets that go first."""

    kept: int = Field(ge=0, description="Number of sets that stay.")
    removable: int = Field(ge=0, description="Sets that go, or with dryRun: would go.")
    broken: int = Field(default=0, ge=0, description="Sets known to be broken: counted for no rule, never removed.")
    problem: str = Field(default="", max_length=512, description="Why nothing is removed at all, if so.")
    sets: tuple[SetVerdict, ...] = Field(
        default=(), max_length=200, description="Set by set, as far as there is room.", json_schema_extra=ATOMIC
    )


class VMBackupScheduleStatus(Report):
    """How the schedule stands."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this speaks of.")
    timetable: Timetable | None = None
    last_schedule_time: Timestamp | None = Field(
        default=None, description="The time by the schedule of the last run that was made."
    )
    next_schedule_time: Timestamp | None = Field(default=None, description="When the next run begins.")
    last_trigger: str = Field(default="", max_length=128, description="The value of spec.trigger that was served last.")
    last_result: LastResult | None = Field(
        default=None, description="Of the newest backup of every VM: Failed when one of them did not succeed."
    )
    last_successful_time: Timestamp | None = Field(default=None, description="When a backup last ended with success.")
    active: int = Field(default=0, ge=0, description="Number of its backups under way.")
    vms: int = Field(default=0, ge=0, description="VMs that the next run covers, as far as is known now.")
    missed_runs: int = Field(default=0, ge=0, description="Runs that were left out so far, all told.")
    last_missed_time: Timestamp | None = Field(default=None, description="The last of them.")
    retention: RetentionReport | None = None
    conditions: Conditions = ()


class VMBackupSchedule(Report):
    """Backs up VMs by the clock and keeps their sets by a policy."""

    model_config = ConfigDict(
        json_schema_extra=rule(
            f"self.metadata.name.size() <= {LONGEST_SCHEDULE_NAME}",
            f"Give the schedule a name of at most {LONGEST_SCHEDULE_NAME} characters: it becomes part of the names of "
            "its VMBackups.",
            field=".metadata.name",
        )
    )

    api_version: str = ""
    kind: Literal["VMBackupSchedule"] = "VMBackupSchedule"
    metadata: ObjectMeta
    spec: VMBackupScheduleSpec
    status: VMBackupScheduleStatus = Field(default_factory=VMBackupScheduleStatus)

    @property
    def key(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @classmethod
    def parse(cls, body: Any) -> "VMBackupSchedule":
        """Read a resource as the API server returned it. Raises: pydantic.ValidationError: it is not ours."""
        return cls.model_validate(dict(body))
