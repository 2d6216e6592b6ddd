# The two commands of the README are `make demo` and `make test`. Both install
# what is missing, say what they do, and take seconds when run again.
#
# Everything is built with the release profile: tests run what is shipped, and
# llama.cpp and wasmtime, which take minutes to compile, are compiled once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

CACHE := $(or $(LLAMERO_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/llamero)
export LLAMERO_CACHE := $(CACHE)
export LLAMERO_MODEL_DIR ?= $(CACHE)/models
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export LLAMERO_BIN := $(CARGO_TARGET_DIR)/release/llamero
export LLAMERO_TEST_PYTHON := $(CACHE)/venv/bin/python
export PATH := $(PATH):/usr/sbin:$(CACHE)/venv/bin

# The end-to-end tests wait for processes and the network more than they compute.
TEST_THREADS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n > 8 ? n : 8)))

CARGO := cargo
PROFILE := --release --locked

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Install the system packages that are missing; say which and why.
	@scripts/setup

.PHONY: build
build: setup ## Build the llamero binary (release).
	@echo "==> building llamero (the first build compiles llama.cpp and wasmtime: about 20 minutes on two cores)" >&2
	@$(CARGO) build $(PROFILE) --package llamero

# GPU backends as well: make dist FEATURES=vulkan
.PHONY: dist
dist: setup ## Pack a binary that picks the kernels for each CPU at run time, into dist/.
	@scripts/dist $(FEATURES)

.PHONY: model
model: setup ## Fetch the default model (98 MB) and check its digest.
	@scripts/fetch-model >/dev/null

.PHONY: plugins
plugins: setup ## Build the example and test plugins (Rust, JavaScript, Python) into plugins/dist.
	@scripts/build-plugins

.PHONY: demo
demo: build model plugins ## Show a worker, its hooks and a streamed answer on an embedded nats-server.
	@$(LLAMERO_BIN) demo --models "$(LLAMERO_MODEL_DIR)" --hooks plugins/dist --sick-hooks plugins/dist/test

.PHONY: test
test: setup lint model plugins ## Run every check and every test: lints, unit, property and end-to-end.
	@echo "==> building everything (cold: about 15 minutes on two cores, for llama.cpp and wasmtime)" >&2
	@$(CARGO) test $(PROFILE) --workspace --no-run
	@echo "==> plugin tests" >&2
	@scripts/build-plugins --test
	@echo "==> unit, property and component tests; then end to end with a real nats-server, model and plugins" >&2
	@RUST_TEST_THREADS=$(TEST_THREADS) $(CARGO) test $(PROFILE) --workspace

.PHONY: lint
lint: setup fmt-check clippy doc deny ## Format, clippy, documentation and dependency checks.

.PHONY: fmt-check
fmt-check:
	@$(CARGO) fmt --all --check

.PHONY: clippy
clippy: setup
	@$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings

.PHONY: doc
doc: setup
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(PROFILE) --workspace --no-deps

.PHONY: deny
deny: setup ## Check licences, sources and banned crates.
	@scripts/cargo-deny check --hide-inclusion-graph bans licenses sources

.PHONY: audit
audit: ## Check the dependencies against the RustSec advisories (needs the network).
	@scripts/cargo-deny check advisories

.PHONY: bench
bench: build model plugins ## Measure hook calls and the worker under load.
	@$(CARGO) bench --locked --workspace --bench hook_call
	@$(CARGO) bench --locked --workspace --bench load

.PHONY: bench-hooks
bench-hooks: export CRITERION_HOME := $(CARGO_TARGET_DIR)/criterion
bench-hooks: setup plugins ## Measure the plugin host against the alternatives; write docs/benchmarks.md.
	@$(CARGO) bench --locked --workspace --bench hook_call
	@scripts/bench-report "$(CRITERION_HOME)"

.PHONY: soak
soak: build model plugins ## Hold the plugin host to its bars over minutes; write docs/benchmarks-soak.md.
	@$(CARGO) bench --locked --workspace --bench soak -- --write $(SOAK)

# Cases and rounds: make bench-engine ARGS="--workload b1,b2-8 --rounds 3"
.PHONY: bench-engine
bench-engine: build model ## Measure the worker against llama-server; write docs/benchmarks-engine.md (hours).
	@LLAMA_SERVER_BIN="$$(scripts/llama-server)"; export LLAMA_SERVER_BIN; \
	$(CARGO) bench --locked --workspace --bench engine -- $(ARGS)

# Rounds: make bench-builds ROUNDS=3
.PHONY: bench-builds
bench-builds: setup model ## Measure compilers and thread settings of llama.cpp; write docs/benchmarks-builds.md.
	@scripts/bench-builds $(ROUNDS)

.PHONY: fmt
fmt: ## Format the code.
	@$(CARGO) fmt --all

.PHONY: clean
clean: ## Remove what was built; the model and the tools in the cache folder stay.
	@$(CARGO) clean
	@rm -rf plugins/dist dist
