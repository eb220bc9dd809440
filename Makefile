# make demo | test | lint | docs | build | clean; each sets up .venv first. Needs Python 3.11+ and a C++ compiler.
PYTHON ?= $(shell for p in python3.12 python3.11 python3 python3.13; do \
	command -v $$p > /dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	&& echo $$p && break; done)
NEW := import sys; sys.exit(sys.version_info < (3, 11))
VERSION := import sys; print(sys.version_info[:2])
BIN := .venv/bin
INSTALL := VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate --extra synth --extra codeformer \
	--group dev --group build --group docs pyproject.toml
CONDA_LOCK := uv pip compile --quiet --no-config --python-version 3.12 --python-platform x86_64-unknown-linux-gnu \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml
PICTURED := person_000014
export PATH := $(abspath $(BIN)):$(PATH)

STUDIES := behaviour ablation components protections protections-purified purifications purified-clean learning budgets shares claims claims-adaptive claims-cdl claims-purifications claims-suffix adaptive transfer

.PHONY: help setup large slurm browser references screenshots demo $(STUDIES) benchmark test lint docs build format lock clean

help: ## say what there is
	@sed -nE 's/^([a-z-]+):.*## /\1\t/p' Makefile | expand -t 16
	@echo 'studies, config/NAME.yaml into docs/NAME, `cloakbench plan config.yaml config/NAME.yaml` says how long:'
	@for name in $(STUDIES); do echo "$$name	$$(sed -n '/^#/!q; s/^# *//p' \
		config/$$name.yaml | tr '\n' ' ' | sed -E 's/\. .*//')"; done | expand -t 16

setup: $(BIN)/.ready ## install every pinned package into .venv

# The Python of .venv is new enough, and of the version of the one that is named.
.PHONY: python
python:
	@test ! -x $(BIN)/python || $(BIN)/python -c '$(NEW)' \
		|| { echo "error: .venv: its Python is older than 3.11. Remove .venv and run make again."; exit 1; }
ifneq ($(origin PYTHON), file)
	@test ! -x $(BIN)/python || test "$$($(BIN)/python -c '$(VERSION)')" = "$$($(PYTHON) -c '$(VERSION)')" \
		|| { echo "error: .venv: its Python is not PYTHON=$(PYTHON). Remove .venv, or leave out PYTHON."; exit 1; }
endif

$(BIN)/.ready: requirements.lock pyproject.toml | python
	@test -x $(BIN)/python || { test -n "$(PYTHON)" && $(PYTHON) -c '$(NEW)' 2> /dev/null; } \
		|| { echo "error: PYTHON=$(PYTHON): no Python 3.11 or newer. Set PYTHON to one."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-build-isolation --editable .
	touch $@

slurm: setup ## install what runs it on a SLURM cluster, too (docs/cluster.md)
	$(INSTALL) --require-hashes -r requirements-slurm.lock

browser: setup ## install what tests the report in a browser, too, if the system has a Chromium
	$(INSTALL) --require-hashes -r requirements-browser.lock

references: setup ## embed the bundled people's faces, after a change to their photos or to code that they depend on
	snakemake results/mini/bundled/references.json
	cp results/mini/bundled/references.json* resources/identities/

screenshots: browser ## picture the demo's report for the docs
	python tools/screenshots.py results/report/mini/index.html --out docs/report

demo: setup ## run the whole study in miniature and print its table (a quarter of an hour on two CPU cores)
	snakemake

claims: private PICTURED := person_000036
claims: private LEARNT := --learnt
claims-adaptive: PICTURED := person_000016
claims-cdl: PICTURED := person_000032
RESULTS = $(or $(shell sed -n 's/^results: *//p' config/$@.yaml),results)
claims: claims-adaptive claims-cdl claims-purifications claims-suffix

$(STUDIES): setup ## run config/<name>.yaml; refresh docs/<name>
	snakemake --configfile config/$@.yaml
	mkdir -p docs/$@
	cp $(RESULTS)/tables/$@/*.md $(RESULTS)/report/$@/*.svg docs/$@/
	cp $(addprefix $(RESULTS)/tables/$@/,images.csv distances.csv provenance.json) docs/$@/
	cloakbench picture config.yaml config/$@.yaml --identity $(PICTURED) $(LEARNT) \
		--out docs/$@/$(PICTURED).webp --force
	$(if $(filter claims,$@),cloakbench claims --so-far)

benchmark: setup ## time protections against the published loops, written anew
	python benchmarks/protections.py

test: setup ## run all tests, but for those of `make large` (twenty minutes on two CPU cores)
	pytest -m "not large" --numprocesses auto --maxprocesses 4 --dist loadfile

large: setup ## run the tests of the largest jobs, counted and run at full size: long, and much memory
	pytest -m large

lint: setup ## format, lint, types and workflow checks (a minute)
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

docs: setup ## build the documentation site into site/
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

build: setup ## build source distribution and wheel into dist/, and check them
	rm -rf dist
	uv build --quiet --no-build-isolation --out-dir dist
	twine check --strict dist/*

format: setup ## reformat all code, and write the config's schema anew
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow
	cloakbench schema --out workflow/schemas/config.schema.json --force

lock: setup ## pin all packages again, newest allowed
	$(LOCK) --upgrade --output-file requirements.lock
	$(LOCK) --extra slurm --constraint requirements.lock --output-file .venv/slurm.lock
	awk '/^[a-z]/ {on = /^snakemake-executor/} on' .venv/slurm.lock > requirements-slurm.lock
	$(LOCK) --group browser --constraint requirements.lock --output-file .venv/browser.lock
	awk '/^[a-z]/ {on = /^(axe-|greenlet|playwright|pyee)/} on' .venv/browser.lock > requirements-browser.lock
	$(CONDA_LOCK) --constraint requirements.lock --output-file .venv/conda.lock
	awk '1; /- pip:/ {exit}' envs/cloakbench.yaml > .venv/conda.yaml
	sed -e ':a' -e '/\\$$/{N; s/ *\\\n */ /; ba' -e '}' -e 's/^/      - /' .venv/conda.lock >> .venv/conda.yaml
	mv .venv/conda.yaml envs/cloakbench.yaml

clean: ## remove results, checkpoints and what was built, keep the environment
	test ! -d results || find results -mindepth 1 ! -name README.md -delete
	rm -rf .snakemake dist site
