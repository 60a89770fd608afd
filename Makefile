# One list of tasks, the same for a hand at the keyboard, for hooks and for CI. `check` changes nothing, `fix` does.
# A fresh machine needs Python 3.11 or later and make; .ci/uv brings the rest from uv.lock.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
DATA ?= simulated
CHURN_HOME ?= .churn/demo-$(DATA)
UI_PORT ?= 5000
PYTEST_ARGS ?=
SOAK_KILLS ?= 100
LOCK := pyproject.toml uv.lock .ci/uv .ci/requirements.txt

unexport PYTHONDONTWRITEBYTECODE VIRTUAL_ENV PYTHONPATH
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
# One worker and no job runner: 0.5 GB instead of 2.4 GB for one person's MLflow UI.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
ifdef PYTHON
export PYTHON
endif

.PHONY: help install dev lock services demo serve ui report test check fix bench quality graded soak clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.run: $(LOCK)
	@.ci/uv sync --frozen --inexact
	@touch $@

$(VENV)/.dev: $(LOCK)
	@.ci/uv sync --frozen --group dev
	@touch $@ $(VENV)/.run

install: $(VENV)/.run ## .venv with what churn needs, from the lock

dev: $(VENV)/.dev ## .venv with what checks and tests need besides

lock: $(VENV)/.run ## move the lock and every list derived from it
	.ci/uv lock
	.ci/uv sync --frozen --inexact
	$(VENV)/bin/python .ci/derived_files.py

services: $(VENV)/.dev ## Redis, PostgreSQL and Chromium for the tests
	@.ci/services

demo: $(VENV)/.run ## the whole river: make demo [DATA=simulated|online_retail]
	@$(VENV)/bin/churn demo --data $(DATA)

serve ui report: export CHURN_HOME := $(CHURN_HOME)

serve: $(VENV)/.run | $(CHURN_HOME) ## the scoring service on the demo's result (or CHURN_HOME's)
	@$(VENV)/bin/churn serve

ui: $(VENV)/.run | $(CHURN_HOME) ## MLflow on the demo's runs and models, on http://127.0.0.1:5000
	@$(VENV)/bin/mlflow server --backend-store-uri "$$($(VENV)/bin/python -c \
		'from churn.settings import load_settings; print(load_settings().tracking_uri)')" \
		--artifacts-destination $(abspath $(CHURN_HOME))/mlartifacts --host 127.0.0.1 --port $(UI_PORT) --workers 1

report: | $(CHURN_HOME) ## where the newest reports lie
	@find $(abspath $(CHURN_HOME))/reports -name '*.html' 2>/dev/null | sort | sed 's|^|file://|' | grep . \
		|| echo "no report yet: churn monitor writes one"

$(CHURN_HOME):
	@echo "$(CHURN_HOME) does not exist yet: run make demo DATA=$(DATA), or set CHURN_HOME to a deployment's folder" >&2
	@exit 4

check: $(VENV)/.dev ## format, lint, types, import rules; changes nothing
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

fix: $(VENV)/.dev ## what can be mended by a program
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/python .ci/derived_files.py
	$(VENV)/bin/python .ci/reliability_page.py

test: $(VENV)/.dev services check ## everything that CI runs
	$(VENV)/bin/pytest $(PYTEST_ARGS)

bench: $(VENV)/.dev services ## speed and memory beside rivals: docs/benchmarks.md, build/bench.json
	@$(VENV)/bin/python -m benchmarks.bench

quality: $(VENV)/.dev ## quality on real logs beside the baselines: docs/quality.md, build/quality.json
	$(VENV)/bin/python benchmarks/quality.py

graded: $(VENV)/.dev ## graded trials on shops with known truth: docs/graded.md, build/graded.json
	$(VENV)/bin/python -m benchmarks.graded

soak: $(VENV)/.dev services ## ten minutes of faults at random, then kill -9 under load: build/soak.json [SOAK_SECONDS=600 SOAK_KILLS=100]
	$(VENV)/bin/python -m benchmarks.soak
	PREDICTION_LOG_ROUNDS=$(SOAK_KILLS) $(VENV)/bin/pytest tests/serving/test_processes.py -k kill_9 --timeout 3600

clean: ## caches and build products; neither .venv nor .churn
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks \
		warehouse/target warehouse/logs logs
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
