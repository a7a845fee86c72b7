.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
STUDY ?= quick

TESTS := $(BIN)/python -m pytest
PARALLEL := -n auto --dist worksteal

.PHONY: help demo test test-fast test-slurm lint figures results ledger docs bench gpu-proof gpu-quarter coverage clean

help:  ## what there is to type
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "isoflop needs Python 3.11 or newer"'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@

demo: $(STAMP)  ## train the embedded study and write report/ (safe to interrupt and repeat)
	$(BIN)/isoflop run experiment=$(STUDY)
	$(BIN)/isoflop report runs --study $(STUDY) --out report

test: $(STAMP)  ## everything that must hold; what needs a card, a browser, SLURM, data, rights is skipped and named
	$(TESTS) $(PARALLEL) -rs -m 'not slurm'

test-fast: $(STAMP)  ## what holds without a process, a browser or patience
	$(TESTS) $(PARALLEL) -m 'not slow and not process and not browser and not gpu and not slurm'

test-slurm: $(STAMP)  ## sweeps on a real SLURM of one node; skipped where it is not installed
	$(TESTS) -rs -m slurm tests/experiments/sweep/test_slurm.py

lint: $(STAMP)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

figures: $(STAMP)  ## the README's figure and answers, from the committed results
	$(BIN)/python -m isoflop.analysis.hero experiments/results/quick.parquet docs/hero.png
	$(BIN)/python -m isoflop.analysis.readme README.md

docs: $(STAMP)  ## the documentation as site/index.html: every command on a page is run, nothing is downloaded
	$(BIN)/python docs/build.py
	$(BIN)/zensical build --strict -f mkdocs.yml
	@echo "open site/index.html; its search needs a server: python -m http.server -d site"

STORES := build/results
TABLES := experiments/results

results: $(STAMP)  ## train every committed table anew, about an hour on 2 quiet cores; the old ones move to results/v1
	test -d $(TABLES)/v1 || { mkdir $(TABLES)/v1 && mv $(TABLES)/*.* $(TABLES)/v1; }
	for name in quick known_answer repeated_data optimizer_rates lr_transfer transformer_vs_lstm experts precision \
	  mixture_known mixture_tiny mixture_tiny_held_out; do \
	  $(BIN)/isoflop run experiment=$$name runs=$(STORES)/$$name && \
	  $(BIN)/isoflop compact $(STORES)/$$name -o $(TABLES)/$$name.parquet || exit 1; done
	$(BIN)/isoflop positions $(STORES)/transformer_vs_lstm --out $(TABLES)/transformer_vs_lstm_positions.csv
	test -e $(TABLES)/quick_holdout_prediction.json || $(BIN)/isoflop predict $(TABLES)/quick.parquet --flops 3e12 \
	  --register $(TABLES)/quick_holdout_prediction.json
	$(BIN)/isoflop run experiment=quick_holdout runs=$(STORES)/quick_holdout
	$(BIN)/isoflop compact $(STORES)/quick_holdout -o $(TABLES)/quick_holdout.parquet
	$(MAKE) ledger

ledger: $(STAMP)  ## the ledger of our own forecasts, from their registrations and the tables that score them
	rm -f $(TABLES)/forecasts.jsonl
	for name in $(TABLES)/v1 $(TABLES); do test ! -e $$name/quick_holdout_prediction.json || \
	  $(BIN)/isoflop predict --ledger $(TABLES)/forecasts.jsonl --register $$name/quick_holdout_prediction.json \
	  --score $$name/quick_holdout.parquet || exit 1; done

bench: $(STAMP)  ## speed as ratios against named baselines
	$(BIN)/python -m tests.bench.commands
	$(BIN)/python -m tests.bench.fits
	$(BIN)/python -m tests.bench.step
	$(BIN)/python -m tests.bench.study

GPU ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

gpu-proof:  ## what the GPU path is held to, on the card that is here, in under ten minutes
	$(GPU) -m tests.bench.gpu_proof $(PARTS)

gpu-quarter:  ## a study at real scale in minutes of a large GPU: tuned, trained, forecast, scored (safe to interrupt)
	$(GPU) -m tests.bench.gpu_quarter

coverage: $(STAMP)  ## lines that no test runs
	$(TESTS) $(PARALLEL) -m 'not slurm' --cov=isoflop --cov=hydra_plugins

clean:  ## remove what was made, keep .venv
	rm -rf runs corpora report build site
