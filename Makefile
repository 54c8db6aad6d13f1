# Everything is installed into .venv; nothing is global. `make` alone lists the targets.
#
# Another package index is pip's own business: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL or pip.conf.
# On Linux, PyPI's torch brings CUDA along (several GB); PyTorch's CPU-only index does not.

VENV := .venv
BIN := $(VENV)/bin
# A tool with many dependencies of its own, kept out of what is tested.
AUDIT := $(VENV)/audit
# The engines that the benchmarks compare with, and what they need.
PEERS := $(VENV)/peers
# Old versions of OpenAI's client, each with what it needs, for the tests of the API.
SDKS := $(VENV)/openai-1.0.0 $(VENV)/openai-1.68.0
STAMP := $(VENV)/.earshot-installed
CODE := service tests training benchmarks samples
IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(IS_NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
ARGS ?=
MINUTES ?= 20
COUNT ?= 100000

.DEFAULT_GOAL := help
.PHONY: help setup sdks serve test test-browser check format bench bench-peers bench-decoding bench-gpu soak fuzz audit manifests clean

help: ## List the targets
	@echo 'make TARGET [ARGS="..."]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install everything into .venv (done by the other targets too)

$(STAMP): pyproject.toml constraints.txt service/model/compiled.c
	@test -n "$(PYTHON)" || { echo 'Earshot needs Python 3.11 or newer: make PYTHON=/path/to/python' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -f service/model/_compiled*.so
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

serve: $(STAMP) ## Serve on 127.0.0.1:8000; ARGS="--port 9000 --model openai/whisper-tiny"
	@$(BIN)/earshot serve $(ARGS)

sdks: $(SDKS) ## Install the old clients that the tests of the API run (done by `make test` too)

# httpx 0.28 took an argument away that the first of them uses.
$(VENV)/openai-%: | $(STAMP)
	$(BIN)/python -m venv --without-pip $@.new
	$(BIN)/python -m pip --python $@.new/bin/python install --quiet 'openai==$*' 'httpx<0.28' 'pydantic==2.14.3'
	mv $@.new $@

test: $(STAMP) $(SDKS) ## Run the tests; ARGS="tests/unit -k mel"
	@$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

test-browser: $(STAMP) ## Run the tests of the page and of /docs in a real Chromium, which must be there
	@REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/browser $(ARGS)

check: $(STAMP) ## Formatting, lint, types and import contracts
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and mend what lint can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(STAMP) ## Load a real server with 1 to 64 clients; ARGS="--random-tiny --requests 16"
	@$(BIN)/python -m benchmarks.load $(ARGS)

bench-peers: $(STAMP) $(PEERS)/bin/.complete ## Beside faster-whisper, whisper.cpp and others; ARGS="--size tiny"
	@$(BIN)/python -m benchmarks.peers.run --peers $(PEERS) $(ARGS)

bench-decoding: $(STAMP) $(PEERS)/bin/.complete ## Beams, fallback and rules, beside others; ARGS="--rounds 5"
	@$(BIN)/python -m benchmarks.decoding --peers $(PEERS) $(ARGS)

# pywhispercpp from its source, so that whisper.cpp is built for this CPU: needs cmake and a compiler.
$(PEERS)/bin/.complete: benchmarks/peers/requirements.txt | $(STAMP)
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	GGML_NATIVE=ON $(PEERS)/bin/python -m pip install --quiet --no-binary pywhispercpp --requirement benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet 'setuptools<81' wheel
	$(PEERS)/bin/python -m pip install --quiet --no-deps --no-build-isolation openai-whisper==20250625
	@touch $@

bench-gpu: $(STAMP) ## Everything for a GPU: speed, floor, peer, and whether it is right; under 10 minutes
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

soak: $(STAMP) ## Soak a service in every kind of request; MINUTES=20
	@$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

fuzz: $(STAMP) ## Mutated recordings through the decoding children; COUNT=100000
	@$(BIN)/python -m tests.fuzz --count $(COUNT) $(ARGS)

audit: ## Compare the pins with today's advisories; needs the network
	@test -n "$(PYTHON)" || { echo 'Earshot needs Python 3.11 or newer: make PYTHON=/path/to/python' >&2; exit 1; }
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/python -m pip install --quiet pip-audit; }
	$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt $(ARGS)

manifests: ## Render the Kubernetes overlays again; needs kubectl
	@for overlay in cpu gpu; do \
		echo "# Rendered from overlays/$$overlay by \`make manifests\`; edit that." > deploy/kubernetes/rendered/$$overlay.yaml; \
		kubectl kustomize deploy/kubernetes/overlays/$$overlay >> deploy/kubernetes/rendered/$$overlay.yaml || exit 1; \
	done

clean: ## Remove .venv and every cache
	rm -rf service/model/_compiled*.so $(VENV) *.egg-info build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
