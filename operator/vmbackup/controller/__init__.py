"""The controller: decides where and when VMBackups run, and keeps the books of queue, finalizers and locations."""

from vmbackup.controller.door import main

__all__ = ["main"]
