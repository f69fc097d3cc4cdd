# `make run` and `make test` work on a fresh checkout; they install what is missing and say so.
VENV ?= .venv
PYTHON := $(VENV)/bin/python

.PHONY: setup setup-test run test test-slow check fmt vendor image clean

setup:
	@VENV=$(VENV) scripts/setup.sh run

setup-test:
	@VENV=$(VENV) scripts/setup.sh test

run: setup
	@$(PYTHON) -m scripts.stack run

# One test, for example: make test ARGS="-k login"
test: setup-test
	@$(PYTHON) -m scripts.stack with-engine $(PYTHON) -m pytest -n 3 --dist loadfile -m "not slow" $(ARGS)

# What takes long: every page in every way, very much of something, what waits or kills for many seconds.
test-slow: setup-test
	@$(PYTHON) -m scripts.stack with-engine $(PYTHON) -m pytest -n 3 --dist loadfile -m slow $(ARGS)

check: setup-test
	@VENV=$(VENV) scripts/check.sh

fmt: setup-test
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format
	$(VENV)/bin/djlint templates --reformat --quiet

# Front-end packages, from the npm registry into the repository.
vendor: setup
	$(PYTHON) scripts/vendor.py $(ARGS)

image: setup
	@scripts/install.sh image || true
	$(PYTHON) manage.py build_agent_image $(ARGS)

# Never the state directory: it holds the database and what agents made.
clean:
	rm -rf $(VENV) staticfiles node_modules .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
