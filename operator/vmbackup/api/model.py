"""The base of every document: frozen, camelCase outside, no unknown fields."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Document(BaseModel):
    """A record that is written down: as a resource, a manifest or a journal entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Report(Document):
    """A document that an older or newer version of us may have written: unknown fields are dropped, not refused."""

    model_config = ConfigDict(extra="ignore")
