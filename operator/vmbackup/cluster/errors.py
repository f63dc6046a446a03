"""What the API server's answers mean to us.

NotYet
├── APIServerAway   no answer, 429 or 5xx: the same call may work later
└── Conflict        409: somebody was faster; read again, then decide again
Refused
├── NotFound        404 or 410: the object or its kind is not there
└── Denied          401, 403, 422 and all else: rights, schema or policy forbid it
"""

import json

from vmbackup.errors import NotYet, Refused

LONGEST_TEXT = 512


class APIServerAway(NotYet):
    """`retry_after_seconds`: what the server asked for, if it did."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__("APIServerAway", message)
        self.retry_after_seconds = retry_after_seconds


class Conflict(NotYet):
    def __init__(self, message: str) -> None:
        super().__init__("Conflict", message)


class NotFound(Refused):
    def __init__(self, message: str) -> None:
        super().__init__("NotFound", message)


class Denied(Refused):
    def __init__(self, message: str) -> None:
        super().__init__("Denied", message)


def answer_error(
    status: int, call: str, body: bytes, retry_after: str | None = None
) -> APIServerAway | Conflict | NotFound | Denied:
    """Return the error that an HTTP answer stands for."""
    message = f"{call}: {status} {_text(body)}"
    if status == 429 or status >= 500:
        return APIServerAway(message, float(retry_after) if retry_after and retry_after.isdigit() else None)
    if status == 409:
        return Conflict(message)
    if status in (404, 410):
        return NotFound(message)
    return Denied(message)


def _text(body: bytes) -> str:
    """Return the message of a metav1.Status, or what came instead of one."""
    try:
        return str(json.loads(body)["message"])[:LONGEST_TEXT]
    except (ValueError, KeyError, TypeError):
        return body[:LONGEST_TEXT].decode(errors="replace")
