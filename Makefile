# Everything a newcomer and CI call. Needs Linux, Python 3.11 or newer (with its headers), g++ and make;
# nothing has to be activated, and nothing is written outside this folder but the model cache.
#
#   .venv       what serving needs, installed from a wheel as any user would
#   .venv-dev   an editable install with the tests' packages, for test, lint, traces, bench-* and sim
#   .venv-compiled   the wheel beside the packages of .venv-dev: its core is compiled, the editable one is not

PORT ?= 8000
ARGS ?=
SEEDS ?= 200
REQUESTS ?= 100000
TORCH ?= torch==2.13.0 transformers
TORCH_REQUIRED ?=
COMPILED_REQUIRED ?=

# The first interpreter that can make a virtual environment and compile an extension.
USABLE = import os, sys, sysconfig, venv, ensurepip; \
	headers = os.path.join(sysconfig.get_path("include"), "Python.h"); \
	sys.exit(sys.version_info < (3, 11) or not os.path.exists(headers))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$python -c '$(USABLE)' 2>/dev/null && echo $$python && break; done)

SERVE = .venv/bin
DEV = .venv-dev/bin
COMPILED = .venv-compiled/bin
NATIVE := pyproject.toml CMakeLists.txt $(wildcard cmake/*) $(shell find src -name '*.cpp' -o -name '*.hpp')
PYTHON_SOURCES := $(shell find src -name '*.py' -o -name '*.pyi')
# Stamps: a build is old when a source is newer, or when a module has come, gone or moved.
LAYOUT := $(shell echo $(sort $(PYTHON_SOURCES)) | cksum | cut -d ' ' -f 1)
INSTALLED = .venv/.installed-$(LAYOUT)
BUILT = .venv-dev/.built-$(LAYOUT)
COMPILED_BUILT = .venv-compiled/.built-$(LAYOUT)
# What the second build is asked: the machines, the simulator on them, and who drives them live. The marker is
# for what needs the core as source.
COMPILED_TESTS = tests/test_builds.py tests/test_determinism.py tests/core tests/sim tests/testing \
	tests/live/test_driver.py tests/live/test_replay.py tests/live/test_log_diff.py tests/live/test_log_file.py

.DEFAULT_GOAL := help
.PHONY: help install serve develop compiled test test-compiled lint format traces sim soak explore chaos hosts fuzz mutants states fidelity clean

define need_tools
@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer with venv and headers was found: install python3," \
	"python3-venv and python3-dev, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
@command -v $${CXX:-g++} >/dev/null || { echo "No C++ compiler was found: install g++" >&2; exit 1; }
endef

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

install: $(INSTALLED) ## .venv with all that serving needs (neither torch nor transformers)

serve: $(INSTALLED) ## install if needed, serve on PORT, print a first answer (ARGS: more options)
	@exec $(SERVE)/diptych serve --port $(PORT) --first-answer $(ARGS)

develop: $(BUILT) ## .venv-dev with an editable install, tests and linters
	@echo "source .venv-dev/bin/activate"

compiled: $(COMPILED_BUILT) ## .venv-compiled with the compiled core
	@echo "source .venv-compiled/bin/activate"

test: $(BUILT) ## lint, tests of the compiled core, all tests (ARGS: options for pytest, then without the second)
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	test -n "$(ARGS)" || $(MAKE) --no-print-directory test-compiled || status=1; \
	$(DEV)/pytest $(ARGS) || status=1; exit $$status

test-compiled: ## tests of machines and simulator on the compiled core
	@if $(MAKE) --no-print-directory $(COMPILED_BUILT); then \
		DIPTYCH_TEST_BUILD=compiled $(COMPILED)/python -m pytest -m "not interpreted" $(COMPILED_TESTS) $(ARGS); \
	else \
		echo "The core cannot be compiled here (see above): its tests on the compiled build are skipped"; \
		test -z "$(COMPILED_REQUIRED)"; \
	fi

lint: $(BUILT) ## ruff (rules and format), mypy strict
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	$(DEV)/mypy

format: $(BUILT) ## let ruff fix and format
	$(DEV)/ruff check --fix .
	$(DEV)/ruff format .

traces: $(BUILT) ## rewrite tests/traces/*.txt; read the diff before you commit it
	$(DEV)/python -m diptych.sim.script tests/traces

sim: $(BUILT) ## SEEDS random fleets with faults, all checkers on, on all cores; failures are made small
	$(DEV)/python -m diptych.sim --seeds $(SEEDS) $(ARGS)

soak: $(BUILT) ## the same until REQUESTS requests were simulated; takes minutes to half an hour
	$(DEV)/python -m diptych.sim --requests $(REQUESTS) --first 100000 $(ARGS)

explore: $(BUILT) ## every order of events on small fleets (ARGS: names, --seconds N, --states N, --jobs N)
	$(DEV)/python -m diptych.sim.explorer $(ARGS)

fuzz: $(BUILT) ## a million and more altered inputs for every parser of others' bytes (ARGS: --inputs N --seed N)
	$(DEV)/python tests/fuzz $(ARGS)

hosts: $(BUILT) ## two network namespaces as two hosts, real model, failing links; needs root, minutes
	$(DEV)/pytest tests/hosts $(ARGS)

chaos: $(BUILT) ## attacks on live fleets, 25 minutes or more (ARGS: --times 1, --only WORDS, --scripted)
	$(DEV)/python tests/chaos $(ARGS)

mutants: $(BUILT) ## deliberate bugs, one at a time: the simulator or a test must catch each of them
	$(DEV)/python tests/mutants $(ARGS)

states: $(BUILT) ## rewrite docs/states.md from the tables in the code
	$(DEV)/python -m diptych.sim.states docs/states.md

fidelity: bench-fidelity ## how far the simulator is from the live fleet (about 10 minutes on an idle machine)

# A program bench/x.py is run by `make bench-x ARGS="--json x.json"`; its line here is for `make help`.
bench-%: bench/%.py $(BUILT)
	$(DEV)/python $< $(ARGS)
bench-accuracy: ## logits of every engine and of the default pair against float32 torch
bench-conversion: ## KV pages from one format to another, against memcpy
bench-core: ## what the core costs a request, the router apart, beside a bare heap
bench-fidelity: ## the simulator against the live fleet, scripted and real (ARGS: --fleet NAME --quick --html FILE)
bench-handoff: ## bytes and time of a local handoff, from the request records
bench-idle: ## CPU time of an idle fleet
bench-interference: ## what prefills do to decoding: 1P1D against the same two aggregated
bench-memory: ## resident memory of the default fleet
bench-native: ## the native engine against llama.cpp, in turns
bench-recovery: ## what a client sees when P or D is killed
bench-simulate: ## simulated requests a second, beside DynoSim (ARGS: --trace FILE --install-peer)
bench-startup: ## time from `diptych serve` to ready
bench-steploop: ## what the step loop itself costs for each step, without the engine

clean: ## remove all environments, builds and caches
	rm -rf .venv .venv-dev .venv-compiled build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(NATIVE) $(PYTHON_SOURCES)
	$(need_tools)
	@echo "Installing into .venv; the native kernels are compiled, which takes a minute or two"
	@test -x $(SERVE)/python || $(PYTHON) -m venv .venv
	@$(SERVE)/python -m pip install --quiet .
	@rm -f .venv/.installed-* && touch $@

# Python sources are read where they lie: only native ones, and another layout, ask for another build.
$(BUILT): $(NATIVE)
	$(need_tools)
	@echo "Building .venv-dev"
	@test -x $(DEV)/python || $(PYTHON) -m venv .venv-dev
	@$(DEV)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		> .venv-dev/build-requires.txt
	@$(DEV)/python -m pip install --quiet -r .venv-dev/build-requires.txt
	@$(DEV)/python -m pip install --quiet --no-build-isolation -C build-dir=build/dev \
		-C cmake.define.DIPTYCH_COMPILED_CORE=OFF -e '.[test]'
	@test -z "$(TORCH)" || $(DEV)/python -m pip install --quiet $(TORCH) \
		|| { echo "$(TORCH) cannot be installed here: tests that need it are skipped"; test -z "$(TORCH_REQUIRED)"; }
	@rm -f .venv-dev/.built-* && touch $@

# Another environment, for a compiled module hides the source beside it. The packages of .venv-dev are taken
# along by path, its editable install is not.
$(COMPILED_BUILT): $(BUILT) $(PYTHON_SOURCES)
	@echo "Building .venv-compiled: the core is translated to C and compiled"
	@test -x $(COMPILED)/python || $(PYTHON) -m venv --without-pip .venv-compiled
	@$(DEV)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(COMPILED)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dev.pth"
	@$(DEV)/python -m pip --python $(COMPILED)/python install --quiet --no-deps --no-build-isolation \
		-C build-dir=build/dev -C cmake.define.DIPTYCH_COMPILED_CORE=ON .
	@rm -f .venv-compiled/.built-* && touch $@
