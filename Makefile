# make demo | test | test-device | soak | coverage | lint | format | types | docs | wheel-test | compile | matrix | bench | clean.
# Each sets up what it needs; a second call is instant.  CONTRIBUTING.md says what each tier of tests is for.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.stamp-installed
SYSTEM := $(VENV)/.stamp-system
BOARD := $(VENV)/.stamp-board
DOCS := $(VENV)/.stamp-docs
POSTGRES := $(VENV)/.stamp-postgres
ARM := $(VENV)/.stamp-arm
GPU := $(VENV)/.stamp-gpu
# Markdown holds one sentence a line (make format); benchmarks write the pages left out, and mkdocs' own syntax is in two
PAGES := $(filter-out $(addprefix docs/,coverage.md exports.md search.md api.md cli.md),$(wildcard *.md docs/*.md deploy/*.md deploy/*/*.md))
# one thread each: what tests measure and compare is small, and waiting threads only slow each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# what make install brings: dev; dev,docs spares make docs an installation of its own
EXTRAS ?= dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable
# pip would compile by one processor, and the packages' own tests too
COMPILE := $(BIN)/python -m compileall -q -j 0 -x '/tests?/' $(VENV)/lib >/dev/null || :
# COVERAGE=1 records the lines that the tests reach; make coverage adds them up and fails below the floor in pyproject.toml
ifdef COVERAGE
PYTEST := OMP_NUM_THREADS=1 $(BIN)/coverage run -m pytest
endif

# what tests import and start is compiled once, not by every process again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo test test-device soak coverage lint format types docs wheel-test compile matrix bench clean

install: $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/edgeprune prune recipes/digits.py --target local: --latency 50%

test: $(INSTALLED) $(SYSTEM)
	$(PYTEST) -n auto -m "not device and not soak and not wheel" $(ARGS)

test-device: $(INSTALLED) $(SYSTEM) $(BOARD) $(POSTGRES) $(ARM) $(GPU)
	$(PYTEST) -n 2 -m "device and not soak" $(ARGS)

# Goes on where an earlier call stopped, as long as no file has changed; SOAK=again begins again.
soak: $(INSTALLED) $(SYSTEM) $(BOARD) $(POSTGRES) $(ARM) $(GPU)
	$(PYTEST) -p soak -n 2 -m soak $(ARGS)

coverage: $(INSTALLED)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --sort=cover

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mdformat --check $(PAGES)

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/mdformat $(PAGES)

docs: $(INSTALLED) $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

types: $(INSTALLED)
	$(BIN)/mypy

wheel-test: $(INSTALLED)
	$(PYTEST) tests/test_wheel.py $(ARGS)

# Every Python that is found here, on the PATH or among pyenv's.
compile:
	.ci/matrix compile

matrix:
	.ci/matrix test

bench: $(INSTALLED)
	set -e; for name in $(patsubst benchmarks/%.py,%,$(filter-out %/__init__.py,$(wildcard benchmarks/*.py))) cluster coverage exports search; do echo "== benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf $(VENV) $(VENV)-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* .soak.*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "edgeprune needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; } \
	  || { echo "Python has no venv module: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An existing environment is used as it is: only what is missing from it is installed.
$(INSTALLED): pyproject.toml | $(BIN)/python
	$(INSTALL) '.[$(EXTRAS)]'
	@$(COMPILE)
	@touch $@ $(if $(findstring docs,$(EXTRAS)),$(DOCS))

$(DOCS): pyproject.toml | $(INSTALLED)
	$(INSTALL) '.[docs]'
	@$(COMPILE)
	@touch $@

# The SSH tests talk to a real OpenSSH server on loopback.
$(SYSTEM): | $(BIN)/python
	@if [ -x /usr/sbin/sshd ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends openssh-server >/dev/null && touch $@; \
	else echo "skipped: the tests against a real SSH server, for there is no /usr/sbin/sshd (apt-get install openssh-server)"; fi

# The virtual aarch64 board is built and started by the tests; adb talks to a device that they play; bad links are made between namespaces.
BOARD_TOOLS := mmdebstrap qemu-aarch64-static update-binfmts adb ip faketime
BOARD_PACKAGES := mmdebstrap qemu-user-static binfmt-support arch-test adb iproute2 faketime
$(BOARD): | $(BIN)/python
	@if command -v $(BOARD_TOOLS) >/dev/null && [ $$(command -v $(BOARD_TOOLS) | wc -l) = $(words $(BOARD_TOOLS)) ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc || :; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(BOARD_PACKAGES) >/dev/null && touch $@; \
	else echo "skipped: the tests on a virtual aarch64 board and with adb (as root: apt-get install $(BOARD_PACKAGES))"; fi

# The history is tested on a PostgreSQL server of the tests' own; the package shall start none.
$(POSTGRES): | $(BIN)/python
	@if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null && touch $@; \
	else echo "skipped: the tests of the history on PostgreSQL (apt-get install postgresql)"; fi

# Chromium brings a Vulkan device in software, on which models run as on a GPU.
$(GPU): | $(BIN)/python
	@if [ -f /usr/lib/chromium/vk_swiftshader_icd.json ]; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium libvulkan1 >/dev/null && touch $@ || \
	  echo "skipped: the tests on a GPU in software, for chromium cannot be installed"; \
	else echo "skipped: the tests on a GPU in software (apt-get install chromium libvulkan1)"; fi

# C arrays for microcontrollers are compiled as firmware is.  The compiler takes 300 MB and more.
$(ARM): | $(BIN)/python
	@if command -v arm-none-eabi-gcc >/dev/null; then touch $@; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc-arm-none-eabi libnewlib-arm-none-eabi >/dev/null && touch $@; \
	else echo "skipped: C arrays compiled for Arm microcontrollers (apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi)"; fi
