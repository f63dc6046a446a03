"""The controller: decides where and when VMBackups run, and keeps the books of queue, finalizers and locations."""

from vmbackup.controller.process import main

__all__ = ["main"]
