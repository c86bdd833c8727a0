# Everything installs into an environment of its own; nothing here needs root.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint quick clean

demo: $(VENV)/installed
	$(BIN)/cronq demo

test: lint
	.ci/packages
	$(BIN)/pytest -q

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/mypy

quick: $(VENV)/installed
	$(BIN)/pytest -q -x tests/test_stories.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m compileall -q cronq  # as pip does where it copies: without bytecode, submit takes twice as long
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
