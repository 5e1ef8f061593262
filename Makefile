# `make demo` and `make test` go from a clone to the end by themselves; see README.md.
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: demo test test-slow test-all check clean

demo: $(VENV)/.demo
	$(VENV)/bin/edgekd build recipes/demo.toml --out build

test: check
	$(PY) -m pytest -m "not slow"

test-slow: check
	$(PY) -m pytest -m slow

test-all: check
	$(PY) -m pytest

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/.demo $(VENV)/.dev: pyproject.toml constraints.txt tools/set-up
	tools/set-up $(@:$(VENV)/.%=%)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
