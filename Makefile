# `make demo` and `make test` are each complete on a fresh Debian or Ubuntu with Python >= 3.10, g++ and
# make: they create .venv here, install what is missing, build, and run. A repeat is quick.

PYTHON ?= python3
PYTEST_JOBS ?= 2

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PY := $(VENV)/bin/python
export PATH := $(BIN):$(PATH)
DEV_VENV := $(VENV)/.installed
EDITABLE := $(VENV)/.editable
FORMATTED = $(shell git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: help
help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# ---- Environment

.PHONY: venv
venv: $(DEV_VENV)  ## .venv with all that building and testing need

$(PY):
	@scripts/install_system_packages $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(DEV_VENV): requirements-dev.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

# ---- Building

.PHONY: build
build: build/dev/build.ninja  ## Builds what changed (ninja in build/dev), in place for the .venv's Python
	@$(BIN)/cmake --build --preset dev
	@$(MAKE) --silent --no-print-directory $(EDITABLE)

build/%/build.ninja: | $(DEV_VENV)
	@scripts/install_system_packages $(PYTHON)
	@$(BIN)/cmake --preset $*

# The .venv's Python finds moai in python/, its command `moai`, and `import torch` finds its entry point.
$(EDITABLE): setup.py pyproject.toml VERSION $(DEV_VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

.PHONY: wheel
wheel: $(DEV_VENV)  ## dist/moai-*.whl
	$(PY) -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps -w dist .
	@ls -l dist/*.whl

# ---- Running

.PHONY: demo
demo: build  ## A first look: moai bench on this machine
	$(BIN)/moai bench --preset demo

# ---- Testing

.PHONY: test
test: test-cpp test-py  ## Every quick test: C++, then Python

.PHONY: test-cpp
test-cpp: build/dev/build.ninja  ## The tests of the rooms without torch
	@$(BIN)/cmake --build --preset dev --target moai_tests
	$(BIN)/ctest --preset dev -j 2

.PHONY: test-py
test-py: build  ## The quick Python tests
	$(PY) -m pytest -n $(PYTEST_JOBS) -m "not slow and not gpu"

.PHONY: test-full
test-full: test-cpp asan tsan  ## Every test there is, sanitizers included; GPU tests where there is a GPU
	MOAI_TEST_FULL=1 $(PY) -m pytest -n $(PYTEST_JOBS)

.PHONY: asan tsan
asan: build/asan/build.ninja  ## The C++ tests under ASan and UBSan
tsan: build/tsan/build.ninja  ## The C++ tests under TSan
asan tsan:
	@$(BIN)/cmake --build --preset $@
	$(BIN)/ctest --preset $@ -j 2

# ---- Fuzzing

# With clang, libFuzzer looks for new inputs for FUZZ_SECONDS; with g++ alone, the known ones are run once.
FUZZ_SECONDS ?= 20
FUZZ_CXX := $(if $(shell command -v clang++),clang++,g++)
FUZZ_FLAGS := -std=c++17 -O1 -g -Icsrc -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_LINK := $(if $(filter clang++,$(FUZZ_CXX)),-fsanitize=fuzzer)
FUZZ_SOURCES := $(shell git ls-files 'csrc/ir/*.cpp' 'csrc/ops/*.cpp' 'csrc/plan/*.cpp')
FUZZ_OBJECTS := $(FUZZ_SOURCES:%.cpp=build/fuzz/%.o) $(if $(FUZZ_LINK),,build/fuzz/tests/fuzz/run_corpus.o)
FUZZ_CASES := $(filter-out tests/cpp/cases/collectives/,$(wildcard tests/cpp/cases/*/))

.PHONY: fuzz
fuzz: build/fuzz/cluster_fuzz build/fuzz/graph_fuzz build/fuzz/plan_fuzz  ## Random texts as clusters, graphs and plans (libFuzzer with clang, else the known inputs)
	@mkdir -p build/fuzz/found/cluster build/fuzz/found/graph build/fuzz/found/plan
	@echo "fuzz: $(if $(FUZZ_LINK),clang with libFuzzer for $(FUZZ_SECONDS) s each,g++: the known inputs alone)"
	build/fuzz/cluster_fuzz -max_total_time=$(FUZZ_SECONDS) -verbosity=0 build/fuzz/found/cluster tests/fuzz/corpus/cluster
	build/fuzz/graph_fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=800 -verbosity=0 build/fuzz/found/graph \
	  tests/fuzz/corpus/graph $(FUZZ_CASES)
	build/fuzz/plan_fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=10 -verbosity=0 build/fuzz/found/plan tests/fuzz/corpus/plan

build/fuzz/%_fuzz: build/fuzz/tests/fuzz/%_fuzz.o $(FUZZ_OBJECTS)
	$(FUZZ_CXX) $(FUZZ_FLAGS) $(FUZZ_LINK) $^ -o $@

build/fuzz/%.o: %.cpp
	@mkdir -p $(@D)
	$(FUZZ_CXX) $(FUZZ_FLAGS) $(if $(FUZZ_LINK),-fsanitize=fuzzer-no-link) -MMD -c $< -o $@

.PRECIOUS: build/fuzz/%.o
-include $(shell find build/fuzz -name '*.d' 2>/dev/null)

# ---- Keeping the code in shape

.PHONY: lint lint-format lint-python lint-rooms
lint: lint-format lint-python lint-rooms  ## Formatting, ruff, and who includes whom

lint-format: $(DEV_VENV)
	@rc=0; for file in $(FORMATTED); do $(BIN)/clang-format $$file | cmp -s - $$file || \
	  { rc=1; echo "$$file is not formatted; would work: make format"; }; done; exit $$rc

lint-python: $(DEV_VENV)
	$(BIN)/ruff check --output-format concise .
	@$(BIN)/ruff format --check --quiet . || { echo "Python is not formatted; would work: make format"; exit 1; }

lint-rooms: $(DEV_VENV)
	$(PY) scripts/check_rooms.py

.PHONY: tidy
tidy: build  ## clang-tidy on the rooms without torch
	$(BIN)/clang-tidy --quiet -p build/dev $$(git ls-files 'csrc/ir/*.cpp' 'csrc/ops/*.cpp' 'csrc/plan/*.cpp' \
	  'csrc/compile/*.cpp' 'csrc/runtime/*.cpp')

.PHONY: format
format: $(DEV_VENV)  ## Formats C++ and Python in place
	$(BIN)/clang-format -i $(FORMATTED)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

.PHONY: clean
clean:  ## Removes what was built; .venv stays
	rm -rf build dist python/moai/_C*.so python/*.egg-info $(EDITABLE)
