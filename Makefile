# The same targets for a user, a developer and CI. `make` alone lists them.
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install serve train predict evaluate test lint bench audit sbom lock

help:  ## list the targets
	@echo "make TARGET [ARGS='--flag value ...']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY)  ## make .venv with everything pinned in requirements.lock

serve: $(READY)  ## start the service on http://127.0.0.1:8000
	@$(BIN)/cifar-serve $(ARGS)

train: $(READY)  ## train cifar_net.pth
	@$(BIN)/cifar-train $(ARGS)

predict: $(READY)  ## classify images through the running service: ARGS=cat.jpg
	@$(BIN)/cifar-predict $(ARGS)

evaluate: $(READY)  ## measure held-out accuracy through the running service: ARGS='--data cifar10'
	@$(BIN)/cifar-evaluate $(ARGS)

test: $(READY)  ## run the tests
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)  ## check formatting, style, types and which package imports which
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)  ## measure the figures that the README quotes
	@$(BIN)/python -m benchmarks $(ARGS)

audit: $(READY)  ## look up known vulnerabilities of the packages pinned in requirements.lock
	@$(BIN)/pip-audit --strict --requirement requirements.lock --disable-pip --progress-spinner off $(ARGS)

sbom: $(READY)  ## write sbom.cdx.json, a CycloneDX list of the packages pinned in requirements.lock
	@$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements \
		--pyproject pyproject.toml --output-reproducible --output-file sbom.cdx.json requirements.lock

lock: $(READY)  ## write the newest versions into requirements.lock
	$(BIN)/uv pip compile --universal --generate-hashes --no-header --upgrade --quiet \
		--all-extras --group dev pyproject.toml --output-file requirements.lock

# pip installs uv; the lock names it too, so that the sync does not remove it.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@echo "Installing into $(VENV), once (torch makes it several GB with CUDA) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(sed -nE 's/^(uv==[^ ]+).*/\1/p' requirements.lock)"
	@$(BIN)/uv pip sync --python $(BIN)/python --quiet --compile-bytecode --require-hashes requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@touch $(READY)
