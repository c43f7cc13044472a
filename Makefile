# Two commands: `make demo` runs the whole pipeline on real text, `make test` runs the suite.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: setup demo test test-matrix test-cluster check bench bench-quick bench-train torture screenshots clean

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "cpt needs Python 3.11, but $(PYTHON) is another; run: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup demo/corpus/code-held-out.jsonl
	$(BIN)/cpt run deployments/parameters/demo.yaml

# The last of the files to be written.
demo/corpus/code-held-out.jsonl: | setup
	$(BIN)/cpt demo corpus demo/corpus

test: setup
	$(BIN)/pytest

# Whole tables of which `make test` runs a part; writes docs/promises.md.
test-matrix: setup
	$(BIN)/python -m tests.matrix

# Real launchers: two hosts made of network namespaces, a Slurm of three nodes. Needs root and the Debian packages
# openssh-server, pdsh, iproute2, slurm-wlm and munge.
test-cluster: setup
	$(BIN)/pytest -m cluster tests/cluster

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Peers, corpora and tokenizers are fetched into build/bench the first time.
bench: setup
	$(BIN)/python -m tests.benchmarks

bench-quick: setup
	$(BIN)/python -m tests.benchmarks --quick

# Training beside a plain Hugging Face Trainer.
bench-train: setup
	$(BIN)/python -m tests.benchmarks training

# Both parts run, whatever the first one finds.
torture: setup
	$(BIN)/python -m tests.faults --write; data=$$?; $(BIN)/python -m tests.faults.trainings --write && exit $$data

screenshots: setup
	$(BIN)/python -m tests.screenshots

clean:
	rm -rf .venv demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
