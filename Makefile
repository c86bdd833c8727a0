# Everything but `make install` installs into an environment of its own, and needs no root.
PYTHON ?= python3
OPT ?= /opt/cronq
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test booted defences lint quick install clean

demo: $(VENV)/installed
	$(BIN)/cronq demo

test: lint
	.ci/packages
	$(BIN)/pytest -q -n 2 --dist loadgroup

booted: $(VENV)/installed  # a server's life under systemd, as documented: needs root
	.ci/packages
	CRONQ_LONG=1 $(BIN)/pytest -q tests/booted tests/test_install.py

defences: $(VENV)/installed  # takes each defence away in turn, and sees its attack succeed: needs root; ONLY="row 3:" some of them
	.ci/packages
	$(BIN)/python tests/attacks/defences.py $(if $(ONLY),"$(ONLY)")

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

install:  # for all users of this machine, as root, with the system's Python: docs/install.md
	/usr/bin/python3 -m venv $(OPT)
	$(OPT)/bin/pip install -q --disable-pip-version-check -c constraints.txt .
	$(OPT)/bin/cronq install --system

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
