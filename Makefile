# Everything but `make install` installs into an environment of its own, and needs no root.
PYTHON ?= python3
OPT ?= /opt/cronq
VENV ?= .venv
BIN = $(VENV)/bin
LAUNCHER_TESTS = $(addprefix tests/,test_launcher.py test_realm.py test_become.py test_ground.py test_roottables.py \
  test_authority.py test_cgroup.py attacks/test_verbs.py attacks/test_drop.py system/test_accounts.py)

.PHONY: demo test booted cron long model defences torture torture-power torture-power-shown torture-sites bench bench-payload \
  cover-launcher lint quick install clean

demo: $(VENV)/installed
	$(BIN)/cronq demo

test: lint
	.ci/packages
	tests/side_by_side $(BIN)/pytest -q

booted: $(VENV)/installed  # a server's life under systemd, as documented: needs root
	.ci/packages
	CRONQ_LONG=1 $(BIN)/pytest -q tests/booted tests/test_install.py

cron: $(VENV)/installed  # thousands of tables, DST nights, steps, packages' files, mail, beside Debian's cron: needs root
	.ci/packages
	CRONQ_LONG=1 $(BIN)/pytest -q $(addprefix tests/cron/test_,against_debian.py packages.py mta.py crontab_beside_debian.py)

long: $(VENV)/installed  # all tests whole, where `make test` takes a slice of them: needs root, and an hour
	.ci/packages
	CRONQ_LONG=1 tests/side_by_side $(BIN)/pytest -q

model: $(VENV)/installed  # many more random steps of the real dispatcher beside the model of the queue
	CRONQ_LONG=1 $(BIN)/pytest -q tests/model

# Kills each program, and fails it, at each of its system calls: needs root. MINUTES or POINTS bound each of the two, ONLY
# plays one point (or those with this in their name), BESIDE so many at once.
torture-sites: BOUNDS = $(if $(MINUTES),--minutes $(MINUTES)) $(if $(POINTS),--points $(POINTS)) \
  $(if $(ONLY),--only $(ONLY)) $(if $(BESIDE),--beside $(BESIDE))
torture-sites: $(VENV)/installed
	$(if $(filter errno:%,$(ONLY)),,$(BIN)/python tests/torture/sites.py kill $(BOUNDS))
	$(if $(filter kill:%,$(ONLY)),,$(BIN)/python tests/torture/sites.py errno $(BOUNDS))

defences: $(VENV)/installed  # takes each defence away in turn, and sees its attack succeed: needs root; ONLY="row 3:" some of them
	.ci/packages
	$(BIN)/python tests/attacks/defences.py $(if $(ONLY),"$(ONLY)")

torture: torture-power torture-sites  # all that must survive: needs root, and an hour

torture-power: $(VENV)/installed  # cuts the power at thousands of moments: needs root; STATES, MORE, SEED
	.ci/packages
	$(BIN)/python tests/torture/power.py --states $(or $(STATES),5100) --more $(or $(MORE),20400) $(if $(SEED),--seed $(SEED))

torture-power-shown: $(VENV)/installed  # the same with flushes that do nothing: must be red
	.ci/packages
	! LD_PRELOAD=libeatmydata.so $(BIN)/python tests/torture/power.py --states 30 --more 90 --each 10

bench: bench-payload  # measures, and writes docs/performance.md

bench-payload: $(VENV)/installed  # SIZE in GiB: needs room for three files of it in /var/tmp; as root, all of it
	$(BIN)/python bench/payload.py $(or $(SIZE),5) $(or $(ROUNDS),3) $(ONLY)

# Every line and branch of what runs as root, in each of its processes, whoever it has become: needs root. (.pth of the
# environment starts coverage in them, also with `python -I`; the directory takes what processes of all users save.)
cover-launcher: export COVERAGE_PROCESS_START = $(CURDIR)/pyproject.toml
cover-launcher: $(VENV)/installed
	.ci/packages
	@set -eu; d=$$(mktemp -d); trap 'rm -r "$$d"' EXIT; chmod 1777 "$$d"; export COVERAGE_FILE="$$d/data"; \
	$(BIN)/pytest -q $(LAUNCHER_TESTS); \
	unset COVERAGE_PROCESS_START; $(BIN)/coverage combine -q; $(BIN)/coverage report

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
