"""What can go wrong, named by what happens next.

    VMBackupError
    ├── NotYet      look again later; nothing is lost by waiting (bounded by the deadline)
    ├── Refused     nothing was touched; the same request will be refused again
    ├── Failed      an act was tried and did not succeed; the way home follows
    └── Stranded    the VM runs, but a human must decide; nothing more is done by itself

Every message names the VM, the disk where there is one, what was tried and what to do next.
`reason` is a CamelCase word from `api.conditions.Reason`: it ends up in conditions and Events.
"""


class VMBackupError(Exception):
    """Base of all errors that the product raises on purpose."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = printable(message)
        super().__init__(self.message)


def printable(words: str) -> str:
    """Return words as they may be stored and shown: those of images and daemons do not steer a terminal."""
    if words.isprintable():
        return words
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)


class NotYet(VMBackupError):  # noqa: N818 - named by what happens next
    """The thing looked for is not there now but may come: wait and look again."""


class Refused(VMBackupError):  # noqa: N818
    """The request cannot be served as it stands; nothing was touched."""


class Failed(VMBackupError):  # noqa: N818
    """An act was tried and did not succeed; `heals` tells whether a new attempt may."""

    def __init__(self, reason: str, message: str, *, heals: bool = False) -> None:
        super().__init__(reason, message)
        self.heals = heals


class Stranded(VMBackupError):  # noqa: N818
    """The VM runs but its disks are not as they were; a human must decide."""
