# Everything that is done with this project. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -Im pytest
WORKERS := 2
# Real tests wait most of the time; every worker has daemons, clusters and directories of its own.
REAL := $(PYTEST) -v -n $(WORKERS) --dist loadfile
FAULT_WORKERS := 3
FAULT := VMBACKUP_FAULT_RESULTS=tests/fault/results.json $(PYTEST) -v -n $(FAULT_WORKERS) tests/fault
TESTBED := PYTHONPATH=dev $(PYTHON) -m testbed

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# -- setting up -----------------------------------------------------------------------------------------------

.venv/ready: dev/bootstrap.sh requirements/dev.txt pyproject.toml
	dev/bootstrap.sh
	@touch $@

.PHONY: setup
setup: .venv/ready ## install what is needed (Debian, as root)

.PHONY: lock
lock: ## lock the dependencies anew
	uv pip compile -q pyproject.toml --generate-hashes --no-emit-index-url -o requirements/run.txt
	uv pip compile -q requirements/image.in --generate-hashes --no-emit-index-url -o requirements/image.txt
	uv pip compile -q pyproject.toml --group dev requirements/build.in --generate-hashes --no-emit-index-url -o requirements/dev.txt

# -- the demo -------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## set up a cluster with two VMs and back them up
	@$(TESTBED) demo

.PHONY: up
up: setup ## start the development cluster
	@$(TESTBED) up

.PHONY: down
down: ## stop the development cluster and leave nothing
	@$(TESTBED) down

.PHONY: parts
parts: setup ## build what the tests need: kube-apiserver, Helm, Debian roots, a guest (minutes the first time)
	@PYTHONPATH=dev $(PYTHON) -m testbed.parts

.PHONY: env
env: ## print the environment of the development cluster, for eval
	@$(TESTBED) env

.PHONY: image
image: setup ## build the image as an archive below dist/
	PYTHONPATH=dev $(PYTHON) -m testbed.containers dist

.PHONY: release
release: setup ## chart, image, SBOM and checksums in dist/release, from a clean commit
	PYTHONPATH=dev $(PYTHON) dev/release.py dist/release

# -- checking and testing -------------------------------------------------------------------------------------

.PHONY: check
check: setup ## what needs no VM: formats, lints, types, doors, unit and walk tests
	test ! -e operator/__init__.py
	.venv/bin/ruff format --check operator dev tests bench docs helm
	.venv/bin/ruff check operator dev tests bench docs helm
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(PYTEST) -q tests/unit tests/walk

.PHONY: test
test: check contract integration attack chart e2e fault ## every test but those of fault-full and soak

.PHONY: unit
unit: setup ## pure tests, seconds
	$(PYTEST) -q tests/unit

.PHONY: walk
walk: setup ## a backup killed at every step, on fakes
	$(PYTEST) -q tests/walk

.PHONY: contract
contract: parts ## the fake and real libvirt 7.0, 9.0 and 11.3 keep the same promises
	$(REAL) tests/contract

.PHONY: integration
integration: parts ## real libvirt, real kube-apiserver, real disks
	$(REAL) tests/integration

.PHONY: e2e
e2e: setup ## the image, installed by Helm and kubectl on a real node
	PYTHONPATH=dev $(PYTHON) -m testbed.realcluster # takes longer than a test may, the first time
	$(PYTEST) -v --timeout=600 tests/e2e

.PHONY: attack
attack: parts ## attacks on real parts: tokens, names, links, images
	$(REAL) tests/attack

.PHONY: chart
chart: parts ## the chart, before Helm, a kube-apiserver, promtool, Lua and kstatus
	$(REAL) tests/chart

.PHONY: fault
fault: parts ## real processes killed, disks filled, connections cut; the cells that matter
	ended=0; $(FAULT) -m "not full" || ended=$$?; $(PYTHON) docs/draw_faults.py; exit $$ended

.PHONY: fault-full
fault-full: parts ## every cell of the fault matrix
	ended=0; $(FAULT) || ended=$$?; $(PYTHON) docs/draw_faults.py; exit $$ended

.PHONY: soak
soak: parts ## random faults for SECONDS (default 300) with SEED
	PYTHONPATH=dev:tests $(PYTHON) tests/soak/run.py --seconds $(or $(SECONDS),300) $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: setup ## measure against virsh, virtnbdbackup and a shell script
	PYTHONPATH=dev $(PYTHON) bench/run.py

.PHONY: crds
crds: setup ## write crds/ from the models
	.venv/bin/vmbackup-operator crd --output crds
	$(PYTHON) helm/render.py

.PHONY: docs
docs: setup ## write the diagrams of docs/ from the tables
	$(PYTHON) docs/draw_states.py
