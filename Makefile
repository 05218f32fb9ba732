# make setup | train | test | bench. Needs Python 3.11 to 3.13 with venv, and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
MODEL_DIR ?= runs/digits

.PHONY: setup train test tpu-check bench clean

setup: $(STAMP)

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { echo "make: Python 3.11 to 3.13 is needed, $$($(PYTHON) -V 2>&1) was found; install it, or set PYTHON=/path/to/python3.11"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: this Python has no venv; install it (Debian, Ubuntu: apt-get install python3-venv)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

train: setup
	@$(RUN) -m trainer.main --model_dir=$(MODEL_DIR)
	@$(RUN) -m trainer.evaluator --model_dir=$(MODEL_DIR) --run_once
	@echo "see it with: $(VENV)/bin/tensorboard --logdir=$(MODEL_DIR)"

test: setup
	$(RUN) -m pytest $(PYTEST_ARGS)

# Does the step of a recipe fit a TPU? make tpu-check TOPOLOGY=v5e:4x4 RECIPE=digits FLAGS=--global_batch_size=2048
TOPOLOGY ?= v5e:2x2
RECIPE ?= digits
FLAGS ?= --global_batch_size=128
TPU_VENV := .venv-tpu
TPU_STAMP := $(TPU_VENV)/.installed

$(TPU_STAMP): requirements-tpu-check.txt
	$(PYTHON) -m venv $(TPU_VENV)
	$(TPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-tpu-check.txt
	@touch $@

tpu-check: setup $(TPU_STAMP)
	@$(RUN) -m launch.tpu_check --topology=$(TOPOLOGY) --recipe=$(RECIPE) -- $(FLAGS)

bench: setup
	$(RUN) -m launch.bench --short $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(TPU_VENV) .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
