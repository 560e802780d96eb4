# make run    the example app on three agents      make test   the whole suite
# make lint   what CI checks before the tests      make bench  the measurements
# make audit  known weaknesses of what we depend on, where PyPI can be asked
# make site   the documentation as a site, in dist/site
# make matrix the unit tests on every Python from 3.11 on that this machine has
# make sim SEEDS=0..999   histories of a whole cluster in virtual time
# make deb    a Debian package in dist/, for this machine's Python
# make single one file in dist/ that is the agent and formctl, for machines with Python alone
# make hosts-test   three machines of systemd-nspawn, installed as docs/install.md says (as root)
# make growth   what a cluster costs as it grows, and the curves of it in docs/growth (12 minutes; nothing else should run)
# make chaos SEED=7 MINUTES=10   a live cluster on test hosts, and everything going wrong (as root)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test lint audit format proto schema openapi docs site matrix sim chaos bench growth wheel deb single hosts-test clean
.DELETE_ON_ERROR:

$(VENV)/.run: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[embedded]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

run: $(VENV)/.run
	@$(BIN)/formctl dev examples/hello --agents 3 -m web=3,worker=2,clock=1

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests bench tools
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/genproto.py --check
	$(BIN)/python tools/lintproto.py
	$(BIN)/python tools/genschema.py --check
	$(BIN)/python tools/genopenapi.py --check
	$(BIN)/python tools/gencli.py --check
	$(BIN)/python tools/gensite.py --quiet
	$(BIN)/lint-imports

audit: $(VENV)/.dev
	$(BIN)/python tools/audit.py

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/.dev
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python tools/genproto.py

schema: $(VENV)/.dev
	$(BIN)/python tools/genschema.py

openapi: $(VENV)/.dev
	$(BIN)/python tools/genopenapi.py

docs: $(VENV)/.dev
	$(BIN)/python tools/gencli.py

site: $(VENV)/.dev
	$(BIN)/python tools/gensite.py

matrix:
	$(PYTHON) tools/matrix.py

SEEDS ?= 0..99
sim: $(VENV)/.dev
	PYTHONHASHSEED=0 PYTHONPATH=tests/sim:tests/harness $(BIN)/python -m simulator $(SEEDS) --jobs 2

SEED ?= $(shell $(PYTHON) -c 'import random; print(random.randrange(1000000))')
MINUTES ?= 2
chaos: $(VENV)/.dev
	PYTHONPATH=tests/harness $(BIN)/python -m chaos --seed $(SEED) --minutes $(MINUTES)

bench: $(VENV)/.dev
	$(BIN)/python bench/scale.py
	$(BIN)/python bench/supervise.py
	$(BIN)/python bench/placement.py
	$(BIN)/python bench/failover.py
	$(BIN)/python bench/flood.py
	$(BIN)/python bench/discovery.py
	$(BIN)/python bench/logs.py --slow
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/page.py

# Runs that failed are told at the end; what the others say is drawn all the same.
growth: $(VENV)/.bench
	@$(BIN)/python bench/growth.py $(GROWTH) --into dist/growth; failed=$$?; \
	  $(BIN)/python bench/plots.py dist/growth --out docs/growth && exit $$failed

wheel: $(VENV)/.dev
	$(BIN)/python -m build --outdir dist .

deb: wheel
	PIP_PYTHON=$(BIN)/python tools/makedeb.sh dist/formctl-*.whl dist

single: wheel
	$(BIN)/python tools/makesingle.py dist/formctl-*.whl dist/formation-agent.pyz

hosts-test: $(VENV)/.dev
	$(BIN)/python tests/hosts/hosts.py

clean:
	rm -rf $(VENV) dist .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
