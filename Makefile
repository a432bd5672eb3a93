# Everything a newcomer types. Needs Python 3.11 or newer and make; all else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install libraries demo test bench gate lint types reference clean

help:
	@echo "make demo       install, run the demo study, build its report, print its path"
	@echo "make test       install, run all tests"
	@echo "make libraries  the other libraries that metabench compares itself with (JAX, TorchOpt, betty, hypergrad)"
	@echo "make bench      times of kernels and meta-gradients, by pytest-benchmark, in results/benchmarks.json"
	@echo "make gate       calls, operators, FLOPs, bytes and errors against tests/benchmarks/gate.json"
	@echo "make lint       ruff: style and errors"
	@echo "make types      pyright"
	@echo "make reference  run the reference studies anew (about five hours; METABENCH_DATA must hold Omniglot)"

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("metabench needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# betty-ml's metadata refuse Python 3.11, and hypergrad's ask for torchvision, which only its examples use.
libraries: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[torchopt,jax,jaxopt]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --ignore-requires-python betty-ml hypergrad

demo: install
	$(BIN)/metabench run demo --jobs 2
	$(BIN)/metabench report demo --output results/demo/report.html

# The tests on a real Slurm share one cluster, some of them stop its daemons: they run one after the other.
test: install
	$(BIN)/python -m pytest -n auto -m 'not slurm' --benchmark-disable
	$(BIN)/python -m pytest -m slurm --benchmark-disable

# Without the options of pyproject.toml: types that are checked at run time take time too.
bench: install
	@mkdir -p results
	$(BIN)/python -m pytest tests/benchmarks --override-ini=addopts= --benchmark-only --benchmark-disable-gc \
		--benchmark-json=results/benchmarks.json

gate: install
	$(BIN)/metabench gate --baseline tests/benchmarks/gate.json

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright

# The assumptions are measured at meta-parameters that outer_optimizers has trained.
QUESTIONS := precision data_scale unrolling mixed outer_optimizers assumptions inner_steps failure_atlas line_search stability

reference: libraries
	$(BIN)/metabench run accuracy_vs_steps --jobs 2 --results results/reference || test $$? -eq 1
	$(BIN)/metabench run cost_vs_steps --jobs 1 --results results/reference || test $$? -eq 1
	$(BIN)/metabench run estimators --jobs 1 --results results/reference || test $$? -eq 1
	$(BIN)/metabench run libraries --jobs 1 --results results/reference || test $$? -eq 1
	$(BIN)/metabench warm peers || test $$? -eq 1
	$(BIN)/metabench run peers --jobs 1 --results results/reference || test $$? -eq 1
	$(BIN)/metabench profile peers > results/reference/peers/profile.md
	$(BIN)/metabench warm scaling || test $$? -eq 1
	$(BIN)/metabench run scaling --jobs 1 --results results/reference || test $$? -eq 1
	$(BIN)/metabench run inner_optimizers --jobs 1 --results results/reference || test $$? -eq 1
	for study in $(QUESTIONS); do \
		$(BIN)/metabench run $$study --jobs 2 --results results/reference || test $$? -eq 1 || exit 1; \
	done
	for study in accuracy_vs_steps cost_vs_steps estimators libraries peers scaling inner_optimizers $(QUESTIONS); do \
		$(BIN)/metabench compact $$study --results results/reference && \
		$(BIN)/metabench figures $$study --results results/reference || exit 1; \
	done
	$(BIN)/python -m analysis.readme

clean:
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info
