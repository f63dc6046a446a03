"""Questions to a file system that may never answer: a dead NFS server holds a caller for ever.

The way home of a VM must not wait for the location, so every look at a location is asked for in a thread of its own and
given up after a while. A thread that hangs cannot be killed: it stays until the server is back, one per location.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

from vmbackup.api.conditions import Reason
from vmbackup.errors import NotYet

ANSWER_SECONDS = 3.0
T = TypeVar("T")


class Silent(NotYet):
    """The file system has not answered in time."""


class Asker:
    """Asks at most one question at a time of a path that has not answered the one before in time."""

    def __init__(self, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._answer_seconds = answer_seconds
        self._hanging: dict[str, threading.Thread] = {}
        self._lock = threading.Lock()

    def ask(self, path: str, question: Callable[[], T]) -> T:
        """Return the answer, or raise what the question raised.

        Raises: Silent: no answer in time; later questions fail at once until the hanging one has come back.
        """
        with self._lock:
            hanging = self._hanging.get(path)
            if hanging is not None and hanging.is_alive():
                raise _silent(path, self._answer_seconds)
            self._hanging.pop(path, None)
        answers: list[T] = []
        errors: list[Exception] = []
        thread = threading.Thread(target=_answer, args=(question, answers, errors), name=f"ask {path}", daemon=True)
        thread.start()
        thread.join(self._answer_seconds)
        if thread.is_alive():
            with self._lock:
                self._hanging[path] = thread
            raise _silent(path, self._answer_seconds)
        if errors:
            raise errors[0]
        return answers[0]


def _answer(question: Callable[[], T], answers: list[T], errors: list[Exception]) -> None:
    try:
        answers.append(question())
    except Exception as error:
        errors.append(error)


def _silent(path: str, seconds: float) -> Silent:
    return Silent(
        Reason.LOCATION_UNUSABLE,
        f"{path} has not answered for {seconds:g} seconds; look whether its file server is reachable (hung mount?)",
    )
