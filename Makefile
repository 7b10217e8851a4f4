# One verb per target, the same here and in CI. `make run` and `make test` need Python >= 3.11, a C++ compiler
# and make; the rest is set up in .venv. PYTHON=… chooses the interpreter. llama.cpp is built for the CPU that it is on;
# PORTABLE=1 asks for the portable build, CMAKE_ARGS=… for options of your own.

VENV ?= .venv
MODELS := smollm2 gemma3 minilm
export PYTHON

BIN := $(VENV)/bin
# The set-up itself runs on any Python from 3.7, to be able to say that it is too old.
BOOT = "$$PYTHON" python3 python3.14 python3.13 python3.12 python3.11

.DEFAULT_GOAL := help
.PHONY: help run test quick check format bench judge docs env

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 } /^#:/ { print substr($$0, 4) }' $(MAKEFILE_LIST)

run: env  ## set up, fetch a small model, and watch it answer, crash and come back
	@$(BIN)/python -m erllama_py.serve.models smollm2 >/dev/null
	@$(BIN)/erllama demo

test: env  ## run every test, those with real models too; on several CPUs side by side
	@$(BIN)/python -m erllama_py.serve.models $(MODELS) >/dev/null
	@$(BIN)/python -m pytest -n auto --dist worksteal

quick: env  ## run the quick tests: less than a minute in total
	@$(BIN)/python -m pytest -q -m "not slow and not real_model" --ignore=tests/house_rules --hypothesis-profile=quick -n auto

check: env  ## judge the code without running it: style, types, documents, house rules
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "not formatted; run: make format" >&2; exit 1; }
	@$(BIN)/zensical build --clean --strict
	@$(BIN)/mypy -n auto & types=$$!; $(BIN)/python -m pytest -q tests/house_rules; rules=$$?; wait $$types && exit $$rules

format: env  ## lay out the code, and write the reference page and the dashboard
	@$(BIN)/ruff check --quiet --fix
	@$(BIN)/ruff format
	@$(BIN)/python -m scripts.reference
	@$(BIN)/python scripts/dashboard.py

bench: env  ## run the benchmarks, one after the other, and write their tables into docs
	@$(BIN)/python -m erllama_py.serve.models smollm2 minilm >/dev/null
	@set -e; for script in $$(grep -l __main__ benchmarks/*.py); do $(BIN)/python "$$script"; done

judge: env  ## play 40 conversations with tools on JUDGE_MODEL=file.gguf, and try the server with many requests and clients
	@ERLLAMA_DESCRIBED_EXAMPLES=200 $(BIN)/python -m pytest -q --hypothesis-profile=default tests/serve/operations/test_description.py
	@ERLLAMA_NEEDS_CHROMIUM=1 $(BIN)/python -m pytest -q tests/serve/page/browser
	@ERLLAMA_EXAMPLES=10 $(BIN)/python -m pytest -q tests/scheduler/test_any_order.py tests/scheduler/test_preempt.py
	@$(BIN)/python -m judge.tools "$(JUDGE_MODEL)"
	@$(BIN)/python -m erllama_py.serve.models minilm >/dev/null
	@$(BIN)/python -m judge.clients "$(JUDGE_MODEL)"

docs: env  ## build the documentation into site/
	@$(BIN)/zensical build --clean --strict

env:  # .venv, made where it is missing, broken or out of date
	@for name in $(BOOT); do \
		if "$$name" -c "import sys; sys.exit(sys.version_info < (3, 7))" >/dev/null 2>&1; then \
			exec "$$name" scripts/setup_env.py --venv "$(VENV)"; \
		fi; \
	done; echo "erllama_py: no Python was found that could be used; Python 3.11 or newer is needed" >&2; exit 1

#:
#: llama.cpp is built for this CPU, and tried before it is used. PORTABLE=1 make … asks for the portable build, and
#: CMAKE_ARGS=… for options of your own; both hold until another build is asked for. PORTABLE=0 goes back.
