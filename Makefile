# Two commands do everything: `make repro` and `make test`. Each does the set-up it misses.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help:
	@echo "make repro    set up, make the demo corpus where data/ is empty, run the whole pipeline"
	@echo "make test     the tests that take seconds (make test-all adds the slow ones)"
	@echo "make lint     ruff and mypy"
	@echo "make compare  train every network at a scale and compare them: SCALE=quickstart MODELS=\"r3d_18 ...\""
	@echo "make bench    install what benchmarks/ compares with and run those that need no argument"
	@echo "make demo     the demo corpus in data/, unless data/ holds something"
	@echo "make setup    .venv with everything in requirements.txt"
	@echo "make requirements  pin the newest versions of everything anew"
	@echo "make clean    remove all that can be made again; never data/"

setup: .venv/.ready

# Where there is no uv, a venv of Python's own brings one.
.venv/.ready: requirements.txt pyproject.toml
	@command -v uv >/dev/null || \
	  { python3 -m venv .venv && .venv/bin/python -m pip install --quiet uv; } || \
	  { echo "error: uv is missing and cannot be installed: see docs.astral.sh/uv"; exit 1; }
	uv venv --quiet --allow-existing --python ">=3.11" .venv
	uv pip install --python .venv --compile-bytecode -r requirements.txt
	uv pip install --quiet --python .venv --no-deps --editable .
	touch $@

demo: setup
	if [ -z "$$(ls -A data 2>/dev/null)" ]; then fvc demo data --videos 64 --seed 0; fi
	dvc add --quiet data

repro: demo
	mkdir -p work
	dvc repro 2>&1 | tee work/repro.log
	@echo; echo "What each stage took:"; grep -aE '^fvc .* took' work/repro.log || echo "nothing ran: all is up to date"

test: setup
	pytest -n logical --maxprocesses 4 --dist loadfile -m "not slow and not gpu"

test-all: setup
	pytest -m "not gpu"

lint: setup
	ruff check .
	ruff format --check .
	mypy

# Those that are there and need neither a file nor a choice.
BENCHMARKS := $(wildcard $(patsubst %,benchmarks/%.py,extract decode stage_clips augment flow clips_end_to_end loading train_step engine_overhead bootstrap serving cluster))
bench: setup
	uv pip install --quiet --python .venv --compile-bytecode -c requirements.txt --editable ".[bench]"
	failed=; for script in $(BENCHMARKS); do echo; echo "$$script"; python $$script || failed="$$failed $$script"; done; \
	  [ -z "$$failed" ] || { echo "not as promised:$$failed"; exit 1; }

# Every network, the default first: the others are held against it.
SCALE := quickstart
# More settings for all of them: make compare SETTINGS="split=single train.epochs=1".
SETTINGS :=
# Nobody has published trees, whatever the scale asks for.
TREES := -S model.pretrained=none
DEFAULT := $(shell sed -n 's/^  - model: //p' conf/config.yaml)
MODELS := $(patsubst conf/model/%.yaml,%,$(wildcard conf/model/*.yaml))
# Names of experiments of their own: an earlier comparison's failures are not this one's.
STAMP := $(SCALE)-$(shell date +%m%d-%H%M%S)
compare: demo
	for model in $(MODELS); do [ -f conf/model/$$model.yaml ] || { echo "error: there is no conf/model/$$model.yaml"; exit 1; }; done
	names="$(addprefix $(STAMP)-,$(filter $(DEFAULT),$(MODELS)) $(filter-out $(DEFAULT),$(MODELS)))"; \
	for name in $$names; do dvc exp run --queue --name $$name -S model=$${name#$(STAMP)-} -S scale=$(SCALE) $(addprefix -S ,$(SETTINGS)) $$([ $${name#$(STAMP)-} != forensic ] || echo $(TREES)); done; \
	dvc queue start; echo "to look on: dvc queue status, dvc queue logs NAME"; \
	gone=0; while sleep $(WAIT_S); status="$$(dvc queue status)"; grep -qE ' $(STAMP)-.* (Queued|Running)' <<<"$$status"; do \
	  if grep -q ' 0 active, 0 idle' <<<"$$status"; then gone=$$((gone+1)); else gone=0; fi; \
	  if [ $$gone = 3 ]; then echo "DVC's worker has ended before its queue: another one goes on"; dvc queue start; gone=0; fi; done; \
	trained=; failed=; for name in $$names; do \
	  if grep -qE " $$name .* Success" <<<"$$status"; then trained="$$trained $$name"; else failed="$$failed $$name"; fi; done; \
	[ -z "$$trained" ] || fvc compare --table $$trained --markdown work/comparison.md --html work/comparison.html; \
	[ -z "$$failed" ] || { echo "failed:$$failed; 'dvc queue logs NAME' says why"; exit 1; }
WAIT_S := 10

clean:
	rm -rf work .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dvc_plots *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

requirements: setup
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra cluster --no-annotate --no-header --upgrade pyproject.toml -o requirements.txt

.PHONY: help requirements setup demo repro test test-all lint compare bench clean
