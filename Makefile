# Two commands: `make demo` and `make test`. Each installs what is missing first; the second call is instant.
VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# One stamp per torch, so that another one is installed when asked for.
STAMP = $(VENV)/installed-$(subst =,-,$(TORCH))

.PHONY: install demo check test test-long docs bench format clean

install: $(STAMP)

# torch comes first and alone, so that a CPU build stays one; the rest is a list that was tried together.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is not Python 3.10 to 3.13; name one: make PYTHON=python3.11 ..." >&2; exit 2; }
	@echo "installing into $(VENV), a few minutes the first time" >&2
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(TORCH)
	$(PIP) install setuptools wheel ninja py-cpuinfo hatchling editables
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(PIP) install --no-deps --no-build-isolation -r constraints.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/installed-* && touch $(STAMP)

demo: install
	$(VENV)/bin/dga demo

check: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: install
	$(VENV)/bin/python -m pytest -m "not slow"

test-long: install
	$(VENV)/bin/python -m pytest

bench: install
	$(VENV)/bin/python -m benchmarks.order
	$(VENV)/bin/python -m benchmarks.update

docs: install
	$(VENV)/bin/python -m toolkit.settings > docs/settings.md

format: install
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
