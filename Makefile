# Two commands do everything: `make repro` and `make test`. Each does the set-up it misses.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help:
	@echo "make repro    set up, make the demo corpus where data/ is empty, run the whole pipeline"
	@echo "make test     the tests that take seconds (make test-all adds the slow ones)"
	@echo "make lint     ruff and mypy"
	@echo "make demo     the demo corpus in data/, unless data/ holds something"
	@echo "make setup    .venv with everything in requirements.txt"
	@echo "make requirements  pin the newest versions of everything anew"
	@echo "make clean    remove all that can be made again; never data/"

setup: .venv/.ready

# A venv made by Python itself needs ensurepip, which Debian splits off; uv needs neither.
.venv/.ready: requirements.txt pyproject.toml
	command -v uv >/dev/null || python3 -m pip install --quiet --user uv || \
	  { echo "error: uv is missing: install it (pip install uv, or docs.astral.sh/uv)"; exit 1; }
	PATH="$$HOME/.local/bin:$$PATH" uv venv --quiet --allow-existing --python ">=3.11" .venv
	PATH="$$HOME/.local/bin:$$PATH" uv pip install --python .venv --compile-bytecode -r requirements.txt
	PATH="$$HOME/.local/bin:$$PATH" uv pip install --quiet --python .venv --no-deps --editable .
	touch $@

demo: setup
	if [ -z "$$(ls -A data 2>/dev/null)" ]; then fvc demo data --videos 64 --seed 0; fi
	dvc add --quiet data

repro: demo
	mkdir -p work
	dvc repro 2>&1 | tee work/repro.log
	@echo; echo "What each stage took:"; grep -aE '^fvc .* took' work/repro.log || echo "nothing ran: all is up to date"

test: setup
	pytest -m "not slow and not gpu"

test-all: setup
	pytest -m "not gpu"

lint: setup
	ruff check .
	ruff format --check .
	mypy

clean:
	rm -rf work .venv .dvc/cache .dvc/tmp .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

requirements: setup
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate --no-header --upgrade pyproject.toml -o requirements.txt

.PHONY: help requirements setup demo repro test test-all lint clean
