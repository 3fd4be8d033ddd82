# Everything runs in .venv, which is made if it is missing. Needs python3 (>= 3.11), make and a package index.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo smoke test slow chaos mutants lint types floors check bench clean

help:  ## what there is to make
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,sweep]'
	touch $@

demo: $(INSTALLED)  ## from clips to an evaluated LoRA predictor; writes runs/demo/report.html
	$(BIN)/lofa demo

smoke: $(INSTALLED)  ## the same, small, in less than two minutes; writes runs/smoke
	$(BIN)/lofa demo experiment=smoke

test: $(INSTALLED)  ## the fast tests, a process a core
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n auto --dist loadfile

slow: $(INSTALLED)  ## the slow tests: processes, wheel, notebook, the whole pipeline
	$(BIN)/pytest -m slow

chaos: $(INSTALLED)  ## zoo, prepare and training killed at random moments, 20 times each, against ones that were not
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.zoo.chaos
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.cli.chaos

mutants: $(INSTALLED)  ## small wrong changes to the source, each of which has to turn its tests red
	$(BIN)/python -m tests.mutants

lint: $(INSTALLED)  ## ruff, style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)  ## mypy
	$(BIN)/mypy

floors: $(INSTALLED)  ## which room may import which
	$(BIN)/lint-imports

check: test lint types floors  ## what has to pass before a commit

bench: $(INSTALLED)  ## benchmarks, on an otherwise idle machine; results go to benchmarks/results
	$(BIN)/python benchmarks/zoo.py --steps 60 --out benchmarks/results/zoo.json
	$(BIN)/python benchmarks/reading.py --out benchmarks/results/reading.json
	$(BIN)/python benchmarks/hypernet.py --compile --out benchmarks/results/hypernet-true.json
	$(BIN)/python benchmarks/hypernet.py --size tiny --compile --backbone tiny-wan --out benchmarks/results/hypernet-tiny.json
	$(BIN)/python benchmarks/hypernet.py --device cuda --layers 240 --dtype bfloat16 --compile --backbone wan2.1-t2v-1.3b --out benchmarks/results/hypernet-gpu.json

clean:  ## removes caches and build products, keeps .venv, data and runs
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -exec rm -rf {} +
