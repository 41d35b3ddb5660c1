# Mayfly: `make run` runs a job on this machine, `make test` everything CI runs. Both set up what they need (Debian 12, root).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory

JOB ?= examples/ebpf-smoke/job.yml
VIRT := $(CURDIR)/build/collections/ansible_collections/mayfly/virt

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build/collections
export ANSIBLE_STDOUT_CALLBACK ?= mayfly.virt.progress
export ANSIBLE_LOCALHOST_WARNING ?= false
export ANSIBLE_INVENTORY_UNPARSED_WARNING ?= false

.PHONY: help run test lint sanity unit local guests molecule bench clean setup setup-test requirements

help:
	@echo 'make run [JOB=path]   run a job (default: $(JOB)); exit 0 passed, 1 tests failed, 2 infrastructure'
	@echo 'make test             lint, sanity, unit, integration and molecule tests: everything CI runs'
	@echo 'make bench            benchmarks, as a table and in build/bench.json'
	@echo 'make clean            remove what make made here: guests, networks, images, build, .venv (results stay)'

setup:
	@scripts/setup run

setup-test:
	@scripts/setup test

# GNU make ends with 2 whatever the status of a recipe. Only as `make -q`, asked whether there is work to do, it ends with 1, and even
# then it runs lines that begin with +. So `make run` is asked that question: 0 passed, 1 the tests say no, 2 the infrastructure failed.
ifeq ($(MAKECMDGOALS),run)
MAKEFLAGS += -q
endif

.PHONY: job
job:
	+@status=0; scripts/setup run && python $(VIRT)/extensions/bin/mayfly_job.py $(JOB) $(ARGS) || status=$$?; echo $$status >build/status

run: job
	$(if $(filter-out 0 1,$(shell cat build/status)),$(error the infrastructure failed, see above))$(if $(filter 0,$(shell cat build/status)),+@:,@false)

# What needs no guest runs side by side: each keeps one processor busy, and the longest begins first.
test: setup-test
	$(MAKE) --jobs=2 --output-sync=target unit local sanity lint
	$(MAKE) guests
	$(MAKE) molecule

lint: setup-test
	scripts/lint

sanity: setup-test
	scripts/sanity

unit: setup-test
	pytest -q tests/unit tests/driver tests/corpus

# Suites on this machine, over ssh to an sshd of our own, and a libvirtd of our own.
local: setup-test
	pytest -q tests/integration/suite
	pytest -q tests/integration/libvirt_test

guests: setup-test
	pytest -q --durations=20 --durations-min=5 tests/integration/host

molecule: setup-test
	scripts/molecule

# The tests' small guest is the benchmark's too.
bench: setup-test
	@PYTHONPATH=tests/integration/host:tests/integration/libvirt_test python bench/run.py $(ONLY)

clean:
	scripts/clean

# Pin what the .in files ask for, from a fresh environment.
requirements:
	scripts/pin
