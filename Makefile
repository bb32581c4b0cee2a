# make demo [LANGUAGE=mandarin]   train from scratch on the bundled speech, then transcribe unseen voices (about 8 min)
# make app                        open the demo page with the models of checkpoints/
# make web                        build and serve the page that needs no server: models in the browser, offline too (needs npm)
# make test                       run the tests
# make benchmarks                 print what is measured (about 10 min)
# make style, make quality        format the code, or check it and its types
# make docs                       build the site of docs/ into site/
# Each sets up .venv first; nothing but Python and a package index is needed.

PYTHON ?= python3
LANGUAGE ?= english
BIN := .venv/bin

# A waiting thread spins a little and then sleeps: on cores that other programs share, spinning takes their time from it.
export GOMP_SPINCOUNT ?= 10000
export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo app web test benchmarks style quality docs

.venv/%.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	touch $@

demo: .venv/train.installed
	$(BIN)/accelerate launch run_ctc.py recipes/demo_$(LANGUAGE).yaml
	$(BIN)/python demo/transcribe.py $(LANGUAGE)

app: .venv/app.installed
	$(BIN)/python app.py

web/models/%: checkpoints/deepspeech2-%/model.safetensors | .venv/onnx.installed
	rm -rf $@
	$(BIN)/deepspeech2 export $(<D) $@ $(if $(findstring live,$*),--live)

web: web/models/english-live web/models/english web/models/mandarin
	cd web && ONNXRUNTIME_NODE_INSTALL=skip npm ci --ignore-scripts --no-audit --no-fund
	cd web && node build.js $(patsubst web/%,%,$^)
	$(BIN)/python -m http.server --directory web/dist 8000

test: .venv/test.installed
	$(BIN)/python -m pytest -n auto --dist worksteal

benchmarks: .venv/train.installed
	$(BIN)/python -m benchmarks --chart docs/images/recurrence.svg

style: .venv/style.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: .venv/style.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
