# make help lists the commands. A second call of any of them installs nothing.
PY ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3 python,$(shell command -v $(p) 2>/dev/null)))
PYTHON = .venv/bin/python
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.done ## install everything into .venv (once)

.venv/.done: requirements.lock pyproject.toml
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PY) is older. Type make PY=/path/to/python3.11"; exit 1; }
	$(PY) -m venv .venv
	$(PYTHON) -m pip install -q --disable-pip-version-check "uv==0.13.*"
	$(PYTHON) -m uv pip install -q -p $(PYTHON) --compile-bytecode --require-hashes -r requirements.lock
	$(PYTHON) -m uv pip install -q -p $(PYTHON) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## four methods on the offline benchmark, one table
	$(PYTHON) scripts/demo.py

data: setup ## fetch a dataset: make data DATASET=cifar100
	$(PYTHON) scripts/fetch_data.py $(or $(DATASET),--help)

weights: setup ## fetch weights: make weights NAME=vit_b16_in21k; none: the list
	$(PYTHON) scripts/fetch_weights.py $(or $(NAME),--list)

test: setup ## the tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal

test-slurm: setup ## sweeps on a SLURM of its own (root, slurm-wlm and munge)
	TEST_SLURM=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -rs tests/slurm

test-wheel: setup ## the wheel with its dependencies in a fresh environment
	TEST_WHEEL=1 OMP_NUM_THREADS=1 $(PYTHON) -m pytest -rs tests/test_package.py

fuzz: setup ## random tests at ten times their size: docs/reliability.md
	mkdir -p outputs && rm -f outputs/fuzz.jsonl
	FUZZ=10 FUZZ_RECORD=outputs/fuzz.jsonl OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist worksteal tests/fuzz
	$(PYTHON) scripts/fill_docs.py fuzz

lint: setup ## style and types of the code
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

docs: setup ## the documentation as a website in site/
	$(PYTHON) scripts/fill_docs.py generated
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict -q
	@echo "site/index.html; with search: $(PYTHON) -m http.server -d site, then http://localhost:8000"

bench: setup ## speed as ratios to a bare forward pass, one JSON line a row
	$(PYTHON) scripts/bench.py

# also ONLY=accuracy,speed: docs/results/gpu.md
check-gpu: setup ## whether a GPU gives the right numbers, and how fast it is
	$(PYTHON) scripts/check_gpu.py $(if $(ONLY),--only $(ONLY))

pictures: setup ## pictures of a run: make pictures RUN=outputs/…/seed0
	$(PYTHON) scripts/pictures.py $(or $(RUN),--help)

# also SEEDS=0,1,2 ON=joblib FORMAT=latex DRY=1: docs/reproducing.md
reproduce: setup ## a published table beside ours: make reproduce TABLE=pgp_table5
	$(PYTHON) scripts/reproduce.py $(TABLE) $(if $(SEEDS),--seeds "$(SEEDS)") $(if $(ON),--on "$(ON)") $(if $(FORMAT),--format "$(FORMAT)") $(if $(DRY),--dry)

# also TABLE=pgp_table5 or SCENARIO=glyphs_10tasks
report: setup ## finished runs as one HTML page, outputs/report.html
	$(PYTHON) scripts/report.py $(if $(TABLE),--table "$(TABLE)") $(if $(SCENARIO),--scenario "$(SCENARIO)")

tables: setup ## the results in docs/, made again where runs are missing
	$(PYTHON) scripts/reproduce.py glyphs
	$(PYTHON) scripts/fill_docs.py prompts

lock: setup ## resolve pyproject.toml into requirements.lock again
	$(PYTHON) -m uv pip compile pyproject.toml --all-extras --universal --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --python-version 3.11 -q -o requirements.lock

clean: ## remove what can be made again, but not outputs/
	rm -rf .venv site .pytest_cache .ruff_cache .hypothesis data/glyphs
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help setup demo data weights test test-slurm test-wheel fuzz lint docs bench check-gpu reproduce report tables pictures lock clean
