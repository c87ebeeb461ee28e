# The commands for people. Each installs what it needs first; `make` alone lists them.
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
UPGRADE ?= --upgrade
KERNELS ?= 6.1 6.12
TRACKERS := infrasight-core/tests/test_trackers.py infrasight-core/tests/test_container_enricher.py
C_FILES = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h')
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard infrasight-*/pyproject.toml))

.PHONY: help setup run tour test test-all test-kernels lint images sbom proto docs lock bench clean fuzz soak

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## Install what running and testing need; quick when there is nothing to do
	@$(PYTHON) tools/setup.py test

run: ## Record this machine's program executions and show them, until Ctrl-C (as root)
	@$(PYTHON) tools/setup.py run
	@$(BIN)/python tools/run.py

test: ## Run the tests (as root; 12 minutes on 2 cores); ARGS="-k execve -x" goes to pytest
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python tools/run_tests.py $(ARGS)

test-all: ## Run every test, including slow ones and those on other kernels (as root; 45 minutes on 2 cores)
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python tools/run_tests.py --all $(ARGS)

test-kernels: ## Run the tests of probes and trackers on Debian's 6.1 and 6.12 in an emulator (as root; 15 minutes); KERNELS="6.1"
	@$(PYTHON) tools/setup.py test
	@$(BIN)/python -m pytest -m guest tests/test_other_kernels.py
	@for series in $(KERNELS); do \
	  $(BIN)/python tools/kernel_guest.py $$series $(BIN)/python -m pytest -p no:cacheprovider -o timeout=900 infrasight-probe-*/tests $(TRACKERS) $(ARGS) || exit; \
	done

tour: ## Install, use and remove everything in a Kubernetes cluster on this machine (as root; a minute)
	@$(PYTHON) tools/setup.py test
	@PYTHONPATH=tests/support $(BIN)/python tests/kubernetes_tour.py

lint: ## Check style, types, import contracts, protobuf, C, vocabulary, and generated code and documents
	@$(PYTHON) tools/setup.py lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@for tests in infrasight-*/tests; do echo "$(BIN)/mypy $$tests"; $(BIN)/mypy $$tests || exit; done
	$(BIN)/python tools/import_contracts.py
	$(BIN)/python tools/proto.py --buf lint
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)
	$(BIN)/python tools/proto.py --check
	$(BIN)/python tools/docs.py --check
	$(BIN)/python tools/vocabulary.py
	@echo "/usr/bin/python3 parses the bcc process, which runs under the system's Python"
	@/usr/bin/python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' infrasight-core/src/infrasight_core/kernel/bcc_process.py

images: ## Build the images with podman; ARGS="--base own" where no registry of images can be reached
	@$(PYTHON) tools/setup.py lint
	@$(BIN)/python tools/images.py $(ARGS)

sbom: ## Write bills of materials (CycloneDX) into dist/sbom; ARGS="--image NAME" for images, else of the packages
	@$(PYTHON) tools/setup.py lint
	@$(BIN)/python tools/sbom.py $(ARGS)

proto: ## Generate the Python code of the .proto files
	@$(PYTHON) tools/setup.py lint
	$(BIN)/python tools/proto.py

docs: ## Write the generated parts of the documents
	@$(PYTHON) tools/setup.py lint
	$(BIN)/python tools/docs.py

lock: ## Write the newest versions that fit together, with hashes, into requirements.lock; UPGRADE= leaves those that fit
	@$(PYTHON) tools/setup.py lint
	printf -- '-e ./%s\n' $(PACKAGES) | $(BIN)/uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --group dev $(PACKAGES:%=--no-emit-package %) - --output-file requirements.lock >/dev/null

fuzz: ## Send mutated messages to a server and a control service; ARGS="--mutations 1000000 --seed 2"
	@$(PYTHON) tools/setup.py test
	@PYTHONPATH=tests/support $(BIN)/python -m infrasight_testbed.fuzz $(ARGS)

soak: ## Kill and freeze server and ClickHouse under load, and count every event; ARGS="--faults 20"
	@$(PYTHON) tools/setup.py test
	@PYTHONPATH=tests/support $(BIN)/python -m infrasight_testbed.soak $(ARGS)

bench: ## Run the benchmarks, which compare with other tracers (as root, on a test machine)
	@$(PYTHON) tools/setup.py bench
	@$(BIN)/python benchmarks/run.py $(ARGS)

bench-%: ## Run one of the benchmarks, as make bench-cost; ARGS=1 for one round
	@$(PYTHON) tools/setup.py bench
	@PYTHONPATH=tests/support $(BIN)/python benchmarks/$*.py $(ARGS)

clean: ## Delete the virtual environment, caches and built files; the data directory stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
