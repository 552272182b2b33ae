# The four things people and machines do with this checkout. Everything that is missing is installed first.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# A warm build outside the checkout: the dependencies take most of half an hour on two cores.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/segue/target
ENV := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/segue/env.sh
SEGUE := $(CARGO_TARGET_DIR)/debug/segue
# What bootstrap installed without root is found through this file.
with_env = if [ -f "$(ENV)" ]; then . "$(ENV)"; fi;
DEMO_ROWS ?= 50000
# What the end-to-end tests of `faults` are played over; `segue-faulty` says what the words mean.
FAULT_SEEDS ?= 1 2 3
FAULT_SUITES ?= cluster fleet schedules events retention versions store registry grpc
STORE_FAULTS ?= gap=12,delay=6,busy=4,error=1,applied-then-error=2,flush=1,full=1,read=1
FUZZ_SECONDS ?= 60

.PHONY: help demo test faults fuzz bench chaos sim lint build bootstrap model

help: ## Show this
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

bootstrap: ## Install what the build needs: cmake, libclang, a C++ compiler
	@bash deploy/bootstrap.sh system

# Always the whole workspace with its tests: cargo gives any other selection of packages other features of shared
# dependencies, and builds the heaviest of them a second time.
build: bootstrap ## Build the program and its tests
	@$(with_env) cargo build --workspace --bins --tests --locked

model: build ## Fetch the embedding model
	@$(with_env) SEGUE_BIN="$(SEGUE)" bash deploy/bootstrap.sh model

demo: build model ## Run the whole segmentation on generated data and open a report
	@mkdir -p demo
	@$(SEGUE) sample-data --rows $(DEMO_ROWS) --out demo/orders.csv
	@cd demo && $(SEGUE) run ../pipelines/customer-segmentation.toml -p input=orders.csv

test: lint model ## Formatting, lints and all tests
	@$(with_env) cargo test --workspace --locked

# Whole packages, as in `test`: see `build`.
faults: build ## Every crash point, many seeds of store faults, and the other long sweeps (half an hour)
	@$(with_env) SEGUE_FAULTS=all cargo test --workspace --locked --test faults
	@$(with_env) log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; for seed in $(FAULT_SEEDS); do \
		SEGUE_STORE_FAULTS_LOG="$$log" SEGUE_STORE_FAULTS="seed=$$seed,$(STORE_FAULTS)" \
		cargo test --workspace --locked $(addprefix --test ,$(FAULT_SUITES)); \
	done; echo "faults of stores that were injected:"; cut -d ' ' -f 1 "$$log" | sort | uniq -c

lint: bootstrap ## Formatting and lints, warnings as errors
	@cargo fmt --all --check
	@$(with_env) cargo clippy --workspace --all-targets --locked -- -D warnings

# A find is replayed with TARGET=name REPLAY=FILE, and made smaller with MINIMISE=1 beside them.
fuzz: bootstrap ## Hand damaged bytes to everything that reads bytes, FUZZ_SECONDS=60 for each target; TARGET=csv: for one
	@$(with_env) FUZZ_SECONDS="$(FUZZ_SECONDS)" bash tests/fuzz/fuzz.sh "$(TARGET)" "$(REPLAY)" $(if $(MINIMISE),min)

chaos: build ## Kill, stop and cut off processes at random and audit it; CHAOS_ARGS=--netns, --rolling, --lost: see README
	@$(CARGO_TARGET_DIR)/debug/segue-chaos $(if $(CYCLES),--cycles $(CYCLES)) $(CHAOS_ARGS)

bench: build model ## Time the pipeline, what a task costs beside its work, and a restart with 100,000 tasks under way
	@$(CARGO_TARGET_DIR)/debug/segue-bench $(BENCH_ARGS)

# A seed that fails is printed with the command that replays it, step by step; here that is `make sim SEED=N`.
sim: bootstrap ## Simulate SEEDS=N clusters that crash, lose messages and disks; DEFECTS=1: are broken rules noticed?
	@$(with_env) SEEDS=$(or $(SEEDS),1000) cargo test --workspace --test sim --locked \
		$(if $(DEFECTS),--features segue-coordinator/defects) -- $(if $(SEED),--replay $(SEED)) $(if $(DEFECTS),--defects)
