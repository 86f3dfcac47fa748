# Everything from nothing: each target first makes the virtual environment that it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
EXTRACTORS := digits fashion omniglot

.PHONY: demo test test-slow test-full check docs mutants bench guard features $(EXTRACTORS:%=features-%) lock

demo: $(READY)  ## train a DCGAN on the embedded digits; print its card, a grid of samples and their paths
	rm -rf runs/demo
	$(BIN)/gan-jax train mnist_dcgan --run runs/demo
	$(BIN)/gan-jax evaluate runs/demo --n 1000
	$(BIN)/gan-jax sample runs/demo --n 100 --out runs/demo/grid.png

test: $(READY)  ## the test suite, without its slow parts
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not full"

test-slow: $(READY)  ## what takes seconds each: whole studies, pages, many devices and kills
	$(BIN)/pytest -n auto --dist worksteal -m "slow and not full"

test-full: $(READY)  ## all of it: sweeps of kills and whole trainings too
	$(BIN)/pytest -n auto --dist worksteal --hypothesis-profile full

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

docs: $(READY)  ## the site, in build/docs; a warning is an error, and tests run what its pages show
	rm -rf build/docs docs/api
	$(BIN)/sphinx-build -q -W --keep-going -j auto docs build/docs

mutants: $(READY)  ## break a copy of the library in each way that it is known to be broken; each must be noticed
	$(BIN)/python tests/mutants.py

SPEEDS := gan_speed lowering_speed rl2_speed maml_speed cost_growth

bench: $(READY)  ## measure again what docs/performance.md tells; $$GAN_JAX_PEERS names a Python with PyTorch
	for name in $(SPEEDS); do rm -rf docs/$$name && $(BIN)/gan-jax train $$name --run docs/$$name || exit; done

guard: $(READY)  ## fail if one of gan_speed's ratios to PyTorch has fallen by a third
	$(BIN)/pytest -m full tests/test_speed.py

experiments/README.md: $(READY) $(wildcard experiments/*.py)  ## the table of all experiments, from their docstrings
	$(BIN)/python experiments/_readme.py > $@

features: $(EXTRACTORS:%=features-%)  ## make the shipped extractors again; their data must lie in $$TFDS_DATA_DIR

features-digits: RECIPE = --data mnist
features-fashion: RECIPE = --data fashion_mnist --normalise --shift 1 --rate 3e-3 --dropout 0.3 --length 8000
features-omniglot: RECIPE = --data omniglot --normalise --warp 0.15 --rate 3e-3 --dropout 0.2 --length 9000

$(EXTRACTORS:%=features-%): features-%: $(READY)  ## make one of them
	rm -rf runs/$@
	$(BIN)/gan-jax train features --run runs/$@ $(RECIPE)
	$(BIN)/python experiments/features.py runs/$@ gan_jax/metrics/weights/$*.npz

lock: $(READY)  ## resolve the dependencies of pyproject.toml again
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--extra dev --extra docs pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-header --no-annotate --no-emit-index-url \
		--extra tpu pyproject.toml -o requirements-tpu.txt

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --require-hashes -r requirements.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@
