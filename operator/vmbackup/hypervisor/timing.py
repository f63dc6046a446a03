"""How long the daemon takes to answer: the same daemon, with a clock beside every call."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmbackup.api.journal import Run
from vmbackup.core.facts import DomainFacts, HostFacts
from vmbackup.core.steps import HypervisorStep
from vmbackup.hypervisor.instance import Instances
from vmbackup.hypervisor.libvirtd import KnownDomain, Libvirtd

Took = Callable[[str, float], None]


def untold(_call: str, _seconds: float) -> None:
    """Take no note of how long a call took."""


class TimedLibvirtd(Libvirtd):
    """Tells `took(call, seconds)` after every call, whether it went well or not.

    Calls are named as in the code: the words of looking, and the class of the step.
    """

    def __init__(
        self, uri: str, took: Took, *, may_use_monitor: bool = False, instances: Instances | None = None
    ) -> None:
        super().__init__(uri, may_use_monitor=may_use_monitor, instances=instances)
        self._took = took

    def host(self) -> HostFacts:
        with self._timing("Host"):
            return super().host()

    def vms(self) -> list[KnownDomain]:
        with self._timing("ListVMs"):
            return super().vms()

    def find(self, domain: str) -> DomainFacts:
        with self._timing("Find"):
            return super().find(domain)

    def observe(self, run: Run) -> DomainFacts:
        with self._timing("Observe"):
            return super().observe(run)

    def perform(self, run: Run, step: HypervisorStep) -> int | None:
        with self._timing(type(step).__name__):
            return super().perform(run, step)

    def domain_xml(self, run: Run) -> str:
        with self._timing("DomainXML"):
            return super().domain_xml(run)

    @contextmanager
    def _timing(self, call: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self._took(call, time.monotonic() - began)
