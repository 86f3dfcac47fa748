# Everything from nothing: each target first makes the virtual environment that it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test test-full check mutants features lock

demo: $(READY)  ## train a DCGAN on the embedded digits; print its card, a grid of samples and their paths
	rm -rf runs/demo
	$(BIN)/gan-jax train mnist_dcgan --run runs/demo
	$(BIN)/gan-jax evaluate runs/demo --n 1000
	$(BIN)/gan-jax sample runs/demo --n 100 --out runs/demo/grid.png

test: $(READY)  ## the test suite, without its slow part
	$(BIN)/pytest -n auto --dist worksteal -m "not full"

test-full: $(READY)  ## all of it: kill sweeps and whole trainings too
	$(BIN)/pytest -n auto --dist worksteal --hypothesis-profile full

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

mutants: $(READY)  ## break a copy of the library in each way that it is known to be broken; each must be noticed
	$(BIN)/python tests/mutants.py

features: $(READY)  ## make the shipped extractor of digits again; needs mnist in $$TFDS_DATA_DIR
	rm -rf runs/digit_features
	$(BIN)/gan-jax train digit_features --run runs/digit_features
	$(BIN)/python experiments/digit_features.py runs/digit_features gan_jax/metrics/weights/digits.npz

lock: $(READY)  ## resolve the dependencies of pyproject.toml again
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--extra dev pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--extra tpu pyproject.toml -o requirements-tpu.txt

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --require-hashes -r requirements.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@
