# make demo [LANGUAGE=mandarin]   train from scratch on the bundled speech, then transcribe voices never heard (about 8 min)
# make app                        open the page on which one sees the models of checkpoints/ at work
# make test                       run the tests
# make benchmarks                 print what is measured (about 10 min)
# make style, make quality        format the code, or check it
# Each sets up .venv first; nothing but Python and a package index is needed.

PYTHON ?= python3
LANGUAGE ?= english
BIN := .venv/bin

# A waiting thread spins a little and then sleeps: on cores that other programs share, spinning takes their time from it.
export GOMP_SPINCOUNT ?= 10000
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo app test benchmarks style quality

.venv/%.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	touch $@

demo: .venv/train.installed
	$(BIN)/accelerate launch run_ctc.py recipes/demo_$(LANGUAGE).yaml
	$(BIN)/python demo/transcribe.py $(LANGUAGE)

app: .venv/app.installed
	$(BIN)/python app.py

test: .venv/test.installed
	$(BIN)/python -m pytest -n auto --dist worksteal

benchmarks: .venv/train.installed
	$(BIN)/python -m benchmarks --chart benchmarks/recurrence.svg

style: .venv/style.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: .venv/style.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
