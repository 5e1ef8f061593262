# `make demo` and `make test` go from a clone to the end by themselves; see README.md.
VENV := .venv
PY := $(VENV)/bin/python
ZOO := .venv-zoo
# Two processes of one thread each test sooner than one of two.
SIDE_BY_SIDE := OMP_NUM_THREADS=1
JOBS ?= 2

.PHONY: demo test test-native test-slow test-all check clean

demo: $(VENV)/.demo
	$(VENV)/bin/edgekd build recipes/demo.toml --out build

test: check
	$(SIDE_BY_SIDE) $(PY) -m pytest -m "not slow and not native" -n $(JOBS) --dist worksteal

test-slow: check $(ZOO)/.zoo
	$(ZOO)/bin/python -m pytest -m zoo
	$(PY) -m pytest -m slow

test-native: check $(VENV)/.native
	$(SIDE_BY_SIDE) $(PY) -m pytest -m native -n $(JOBS) --dist loadfile

test-all: test test-native test-slow

check: $(VENV)/.dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/.demo $(VENV)/.dev: pyproject.toml constraints.txt tools/set-up
	tools/set-up $(@:$(VENV)/.%=%)

$(VENV)/.native: $(VENV)/.dev tools/set-up tools/onnxruntime-headers
	tools/set-up native

$(ZOO)/.zoo: pyproject.toml constraints.txt tools/set-up
	tools/set-up zoo

clean:
	rm -rf $(VENV) $(ZOO) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
