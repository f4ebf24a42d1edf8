# make demo | test | check | fix | docs | bench | lock: each sets up what it needs in .venv
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip
STAMP := .venv/.installed-$(shell cksum requirements.lock pyproject.toml | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help demo test check fix docs bench reader-eval lock clean

help:
	@sed -n '1s/^# //p' Makefile

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mlxrag needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing the locked packages into .venv (once)"
	@$(UV) sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@rm -f .venv/.installed-*; touch $@

demo: $(STAMP)
	@$(BIN)/python -m benchmarks.demo

test: $(STAMP)
	@MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(STAMP)
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --diff --quiet . | head -20; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

fix: $(STAMP)
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

docs: $(STAMP)
	@$(BIN)/python -m docs.generate

bench: $(STAMP)
	@MKL_NUM_THREADS=1 $(BIN)/python -m benchmarks.all $(ARGS)

reader-eval: $(STAMP)
	@MKL_NUM_THREADS=1 $(BIN)/python -m benchmarks.reader_eval

# One file for macOS arm64 and Linux x86-64/arm64, hashed, without addresses.
lock:
	@$(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-header --no-annotate --extra offline --group dev --override requirements.override pyproject.toml \
		| awk '/^[A-Za-z0-9]/ { keep = !/never/ } keep' > requirements.lock.new && mv requirements.lock.new requirements.lock

clean:
	@rm -rf .venv .demo build dist .mypy_cache .ruff_cache .hypothesis
