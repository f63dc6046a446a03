"""The API server or etcd is away for a while: what is begun is brought home, nothing new is begun."""

from collections.abc import Iterator

import pytest

from integration.system.backup import eventually
from integration.system.programs import Stage
from integration.system.tenant import Tenant

COPY_SECONDS = 4


@pytest.fixture(autouse=True)
def _api_server_comes_back(stage: Stage) -> Iterator[None]:
    """Before the tenant leaves."""
    yield
    stage.mend()


@pytest.mark.parametrize("part", ["kube-apiserver", "etcd"])
def test_vm_goes_home_without_the_api_server(tenant: Tenant, part: str) -> None:
    stage = tenant.stage
    domain = tenant.begin_slow("Snapshot", COPY_SECONDS)
    stage.take_down(part)
    tenant.until_home(domain)
    eventually(tenant.sets, "the set is published")
    assert tenant.leftovers() == []
    stage.mend()
    backup = tenant.until_succeeded()
    assert backup.status["attempt"] == 1
    assert tenant.until_event("Completed")
    assert len(tenant.sets()) == 1
    tenant.until(lambda backup: "finalizers" not in backup.metadata)


def test_nothing_is_begun_while_it_is_away(tenant: Tenant) -> None:
    """A backup is assigned, but its agent cannot claim it: the API server is gone before the agent is back."""
    stage, node = tenant.stage, tenant.stage.nodes["node-1"]
    domain = tenant.vm()
    tenant.until_hosted("web")
    node.agent.kill()
    tenant.back_up()
    tenant.until(lambda backup: backup.phase == "Assigned")
    stage.take_down("kube-apiserver")
    words = node.agent.word_count()
    node.agent.start()
    eventually(lambda: node.agent.word_count() > words, "the agent says that it cannot reach the API server")
    assert not tenant.job_runs(domain)
    assert tenant.sets() == []
    stage.mend()
    tenant.until_succeeded()


def test_agent_started_without_the_api_server_takes_the_vm_home(tenant: Tenant) -> None:
    """A node that reboots its agent in an outage: the journal is enough."""
    stage, agent = tenant.stage, tenant.stage.nodes["node-1"].agent
    domain = tenant.begin_slow("Snapshot", COPY_SECONDS)
    agent.kill()
    stage.take_down("kube-apiserver")
    agent.start()
    tenant.until_home(domain)
    eventually(tenant.sets, "the set is published")
    stage.mend()
    assert tenant.until_succeeded().status["attempt"] == 1
    assert len(tenant.sets()) == 1
