# Everything from a clone: make demo, make test. Both can be run again, are quick then, and need no network then.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
REPORT := report.html
HISTORY := .browserpool/history.duckdb
# tests that start browsers or kill processes run by themselves, after the quick ones
LONG := browser or slow or chaos
ARGS ?=
# hundreds of short runs of pytest: without compiled modules each would rewrite the plugin's assertions anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=python3.X"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make virtual environments. On Debian: apt-get update && apt-get install -y python3-venv"; exit 1; }
	@echo "installing the Python packages into $(VENV) (a minute or two) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check "$$(grep '^pip==' requirements/constraints.txt)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements/constraints.txt --group dev -e .
	@touch $@

.PHONY: setup
setup: $(STAMP) ## .venv with everything, browsers, onnxruntime-web and the example models
	@$(BIN)/browserpool install
	@$(BIN)/browserpool fetch

.PHONY: demo
demo: setup ## the example suite on the browsers of this machine, with its report
	@status=0; \
	$(BIN)/pytest --browserpool -n auto example_suite -m "not slow" --html=$(REPORT) --self-contained-html $(ARGS) || status=$$?; \
	echo "report:  $(CURDIR)/$(REPORT)"; \
	echo "history: $(CURDIR)/$(HISTORY)"; \
	exit $$status

.PHONY: demo-language
demo-language: setup ## a language model of 135 million weights over three browsers (minutes, 3 GiB)
	$(BIN)/pytest --browserpool example_suite/test_language.py $(ARGS)

.PHONY: lint
lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Only where nothing can come of it: root in a container. Where systemd runs, a daemon would be started for good, and the
# tests are skipped with the command to type instead.
.PHONY: test-hosts
test-hosts:
	@if [ "$$(id -u)" = 0 ] && [ ! -d /run/systemd/system ] && command -v apt-get > /dev/null && \
	    ! { [ -x /usr/sbin/sshd ] && command -v ssh && command -v ip; } > /dev/null; then \
	  echo "installing sshd and ip for the tests of remote nodes (not started: the tests run their own) ..."; \
	  apt-get -qq update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install -y \
	    --no-install-recommends openssh-server openssh-client iproute2 > /dev/null || \
	  echo "they could not be installed: these tests are skipped"; \
	fi

.PHONY: test
test: lint docs test-hosts ## lint, the documentation without a broken link, then all tests, the quick ones first
	$(BIN)/pytest tests -q -n auto -m "not ($(LONG))" $(ARGS)
	$(BIN)/pytest tests -q -n 3 --dist loadfile --no-loadscope-reorder -m "$(LONG)" $(ARGS)

.PHONY: test-remote
test-remote: setup test-hosts ## nodes on three hosts (network namespaces, ssh); part of `make test` where root can make them
	$(BIN)/pytest tests/remote -q -rs $(ARGS)

.PHONY: bench-transport
bench-transport: setup ## what one call of a model costs over session.run in the page
	$(BIN)/python benchmarks/transport.py $(ARGS)

.PHONY: bench-first-runs
bench-first-runs: setup ## what a WebGPU model's first call costs on a software adapter, with our switch and without
	$(BIN)/python benchmarks/first_runs.py $(ARGS)

.PHONY: bench-scheduler
bench-scheduler: setup ## makespan against xdist's own schedulers, simulated
	$(BIN)/python benchmarks/scheduler.py $(ARGS)

.PHONY: bench-learning
bench-learning: setup ## how soon --browserpool-learn overcomes a wrong history, simulated
	$(BIN)/python benchmarks/learning.py $(ARGS)

.PHONY: bench-peers
bench-peers: setup ## the same suite by pytest-playwright, by Playwright Test and by this project, in rounds (an hour)
	$(BIN)/python benchmarks/peers/run.py $(ARGS)

.PHONY: bench-scale
bench-scale: setup ## many tests, many models, many nodes, a long run (two hours, or ARGS="--minutes 5")
	$(BIN)/python benchmarks/load.py $(ARGS)

.PHONY: bench-gpu
bench-gpu: setup ## the example suite and its models on a hardware GPU; exit 3 where there is none
	$(BIN)/python benchmarks/gpu.py $(ARGS)

.PHONY: bench-history
bench-history: setup ## the history at scale, and what recording costs a run of the example suite
	$(BIN)/python benchmarks/history.py $(ARGS)
	$(BIN)/python benchmarks/recording.py

.PHONY: bench-sharding
bench-sharding: setup ## quality and speed of the partitioner, and of models over several browsers
	$(BIN)/python benchmarks/sharding.py
	$(BIN)/python benchmarks/sharding_execution.py $(ARGS)
	$(BIN)/python benchmarks/sharding_nodes.py
	$(BIN)/python benchmarks/sharding_recovery.py $(KILLS)

.PHONY: reference
reference: $(STAMP) ## docs/reference.md and the layers, from the code
	$(BIN)/python scripts/generate_reference.py

.PHONY: chaos
chaos: setup ## every fault on every browser where it exists, with the table of what came of it
	BROWSERPOOL_CHAOS=full $(BIN)/pytest tests/chaos tests/store/test_store_integrity.py tests/store/test_store_writer.py \
	  tests/browser/test_sharded.py::test_a_real_model_over_browsers_is_the_whole -q $(ARGS)

.PHONY: test-full
test-full: test chaos ## CI's full form: all tests, every fault on every browser, twenty minutes of mixed work
	$(BIN)/python benchmarks/load.py long --minutes 20

.PHONY: bench-recovery
bench-recovery: setup ## seconds from the death of a browser to the right answer, beside a rerun by hand
	$(BIN)/python benchmarks/recovery.py $(ARGS)

.PHONY: bench-suite
bench-suite: setup ## the example suite under our scheduler and under xdist's own (16 runs of a minute)
	$(BIN)/python benchmarks/suite.py $(ARGS)

.PHONY: bench-soak
bench-soak: setup ## 10,000 warm calls under random faults, 200 kills of the controller: nothing wrong, lost or growing
	$(BIN)/python benchmarks/soak.py $(ARGS)

.PHONY: docs
docs: $(VENV)/.docs ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "documentation: $(CURDIR)/site/index.html"

$(VENV)/.docs: $(STAMP)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c requirements/constraints.txt --group docs
	@touch $@

.PHONY: clean
clean: ## what was built here; the shared cache stays
	rm -rf $(VENV) build dist site $(REPORT) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
