# make run        five nodes in this folder, from nothing but Python 3.11+ and make
# make demo       the same with traffic, for a look at the console
# make test       everything that is needed to run the tests, and the tests
# make test-fast  those of them that take a minute together, while you work
# make check      what a change has to pass: format, lint, types, tests

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= run/nsqd1
# Many tests wait: for processes, for time-outs. So one more at a time than there are cores.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
PYTEST ?= -n $(WORKERS) --dist loadgroup
PROGRESS := --progress -rfE -o console_output_style=classic
FAST := not (process or foreign or network or deploy or browser or heavy)
PREFIX ?= /usr/local
LOCK := deploy/requirements.lock

.DEFAULT_GOAL := help
.PHONY: help run demo nsqd test test-fast drill check format lint types bench screenshots install uninstall clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$$($(PYTHON) --version) is too old: nsq-trio needs 3.11 or later (make PYTHON=python3.12 ...)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

# pip, with the name of each package on one line as it comes, instead of nothing or everything.
define install
	@rm -f $@.done
	@{ $(BIN)/pip install --disable-pip-version-check --progress-bar=off $(1) && touch $@.done; } | \
		awk '/^Collecting/ { sub(/[^A-Za-z0-9_.-].*/, "", $$2); printf "%s ", $$2; fflush() } END { print "" }'
	@test -e $@.done && rm $@.done && touch $@
endef

$(VENV)/.run: pyproject.toml shared/pyproject.toml $(VENV)/.made
	@echo "Setting up nsq-trio in $(VENV), once: half a minute, with a slow network more. It needs some 30 packages:"
	$(call install,-e ./shared -e .)

$(VENV)/.dev: pyproject.toml shared/pyproject.toml $(VENV)/.made
	@echo "Setting up nsq-trio and its test tools in $(VENV), once: a minute, with a slow network more. It needs some 90 packages:"
	$(call install,-e ./shared -e '.[dev]')
	@touch $(VENV)/.run

# What CI installs: the very files of the lock file, and nothing that they would bring along.
$(VENV)/.locked: $(LOCK) $(VENV)/.made
	@echo "Setting up nsq-trio and its test tools in $(VENV), as locked in $(LOCK) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $(LOCK)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e ./shared -e .
	@touch $@ $(VENV)/.run $(VENV)/.dev

# Programs about packages, apart from those that they are about.
$(VENV)-supply/.made: $(VENV)/.made
	@$(PYTHON) -m venv $(VENV)-supply
	@$(VENV)-supply/bin/pip install --quiet --disable-pip-version-check pip-audit cyclonedx-bom
	@touch $@

run: $(VENV)/.run ## set everything up and start five nodes here and the console: 3 nsqd, 2 nsqlookupd, nsqadmin
	@mkdir -p run/nsqd1 run/nsqd2 run/nsqd3 run/files
	@printf '%s\n' '' \
		'Starting five nodes on 127.0.0.1, one log for all of them below:' \
		'' \
		'  nsqd        TCP 4150, 4250, 4350   HTTP 4151, 4251, 4351   messages in run/nsqd1, run/nsqd2, run/nsqd3' \
		'  nsqlookupd  TCP 4160, 4260         HTTP 4161, 4261' \
		'  nsqadmin    the console: http://127.0.0.1:4171/' \
		'' \
		'In another terminal:' \
		'' \
		'  publish a message to the first nsqd:' \
		'    curl -d "hello" "http://127.0.0.1:4151/pub?topic=greetings"' \
		'  see what arrives on any of them, until Ctrl-C:' \
		'    $(BIN)/nsq_tail --topic=greetings --lookupd-http-address=127.0.0.1:4161' \
		'  archive it, until Ctrl-C (a file is there after 30 s):' \
		'    $(BIN)/nsq_to_file --topic=greetings --lookupd-http-address=127.0.0.1:4161 --output-dir=run/files' \
		'  who has the topic, and what is on the first nsqd:' \
		'    curl "http://127.0.0.1:4161/lookup?topic=greetings"' \
		'    curl "http://127.0.0.1:4151/stats"' \
		'  each nsqd copies its messages to the next one; what the second one holds of the first:' \
		'    curl "http://127.0.0.1:4251/replicas"' \
		'  lose the first one for good (pkill -9 nsqd; rm -r run/nsqd1; make run), and have its messages served from there:' \
		'    curl -X POST "http://127.0.0.1:4251/replicas/adopt?life=LIFE"' \
		'' \
		'Any NSQ client finds all of them through 127.0.0.1:4161 and 4261. Ctrl-C stops them; the messages stay.' ''
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python deploy/local.py deploy/Procfile $(DEMO)

demo: DEMO := deploy/Procfile.demo
demo: run ## the same, with traffic: three topics that are published and consumed

nsqd: $(VENV)/.run ## set everything up and start one broker alone
	@mkdir -p $(DATA)
	@exec $(BIN)/nsqd --data-path=$(DATA) --tcp-address=127.0.0.1:4150 --http-address=127.0.0.1:4151 \
		--broadcast-address=127.0.0.1 $(ARGS)

test: $(VENV)/.dev ## set everything up and run all tests (some twelve minutes)
	$(BIN)/pytest $(PROGRESS) $(PYTEST)

test-fast: $(VENV)/.dev ## the tests that start no process and are quick (a minute)
	$(BIN)/pytest $(PROGRESS) $(PYTEST) -m '$(FAST)'

drill: $(VENV)/.dev ## lose machines of a cluster of five nodes here, and see what happens (as root; two minutes)
	@$(BIN)/python -m tests.network.drill $(ARGS)

check: format lint types test ## format, lint, types, tests: what a change has to pass

format: $(VENV)/.dev ## check the formatting (ruff format)
	$(BIN)/ruff format --check

lint: $(VENV)/.dev ## run the linter (ruff check)
	$(BIN)/ruff check

types: $(VENV)/.dev ## check the types (mypy --strict)
	$(BIN)/mypy

bench: $(VENV)/.dev ## run the benchmark and draw its curves (a quarter of an hour, on a quiet machine; ARGS=--quick)
	$(BIN)/python -m bench $(ARGS)

.PHONY: docs
docs: $(VENV)/.dev ## regenerate the tables in docs/ that come from the source
	@$(BIN)/python -m tests.docs.generated

.PHONY: lock audit sbom
lock: $(VENV)/.made ## write the lock file again, with the latest versions (two minutes)
	@$(PYTHON) deploy/requirements.py --dev >$(VENV)/requirements.in
	@$(BIN)/pip install --quiet --disable-pip-version-check --dry-run --ignore-installed \
		--report $(VENV)/report.json --requirement $(VENV)/requirements.in
	@$(PYTHON) deploy/lock.py <$(VENV)/report.json >$(LOCK)

audit: $(VENV)-supply/.made ## look up known vulnerabilities of the locked packages
	@$(PYTHON) deploy/audit.py $(VENV)-supply/bin/pip-audit $(LOCK)

sbom: $(VENV)-supply/.made ## write a software bill of materials, dist/sbom.json (CycloneDX)
	@mkdir -p dist
	@$(VENV)-supply/bin/cyclonedx-py requirements --pyproject=pyproject.toml --output-reproducible \
		--output-file=dist/sbom.json $(LOCK)
	@echo dist/sbom.json

screenshots: $(VENV)/.dev ## take the screenshots in docs/images again (five minutes; needs Chromium)
	$(BIN)/python -m tests.browser.screenshots docs/images $(ARGS)

install: ## install for all users, with systemd units (as root; PREFIX=/usr/local DESTDIR=)
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' deploy/install.sh install

uninstall: ## remove what install has installed, except configuration and messages
	@PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' PYTHON='$(PYTHON)' deploy/install.sh uninstall

clean: ## remove what the other targets made (not your messages in run/)
	rm -rf $(VENV) $(VENV)-supply .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/foreign/node_modules tests/artefacts
