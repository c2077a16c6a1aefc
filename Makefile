# Every target builds the whole workspace in the release profile: one set of features, so RocksDB is
# compiled once and shared by all of them.

SHELL := /bin/bash
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(HOME)/.cache/inferadb-ledger/target
BINARIES := $(CARGO_TARGET_DIR)/release
CARGO_SCOPE := --release --workspace --locked
# Places at which tests stop a server; compiled into nothing but what tests run.
TEST_FEATURES := --features ledger/failpoints

.PHONY: help setup build demo oracles clients test interop sim chaos lint tidy bench ladder wasm

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Check for the tools the build needs, installing them where possible
	@./xtask/setup.sh

build: setup ## Build everything
	cargo build $(CARGO_SCOPE)

demo: build ## Start three nodes, load real data, prove it, kill a leader (ARGS="--keep" and others)
	$(BINARIES)/ledger demo $(ARGS)

oracles: ## Install the verifiers in Python and JavaScript that tests ask, where that is possible
	@./proof/oracles/install.sh

clients: ## Install what the Python clients of the tests need, where that is possible
	@./tests/python/install.sh

test: setup oracles clients ## Run every test
	TMPDIR="$$(./xtask/test-directory.sh)" cargo test $(CARGO_SCOPE) $(TEST_FEATURES)
	@$(MAKE) --no-print-directory interop
	@$(MAKE) --no-print-directory wasm

interop: ## The published clients against the server that the tests have built; needs the registry once
	@./tests/interop/run.sh

sim: setup ## A simulated cluster under faults drawn from seeds (ARGS="--seeds 1000", and --seed to do a run again)
	cargo xtask sim $(ARGS)

chaos: setup ## Real servers under faults (ARGS="--minutes 10 --mix all", and --seed to do a run again)
	cargo xtask chaos $(ARGS)

lint: setup ## Formatting, clippy and documentation, warnings refused
	cargo fmt --all --check
	cargo fmt --manifest-path tests/interop/Cargo.toml --check
	cargo clippy $(CARGO_SCOPE) $(TEST_FEATURES) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_SCOPE) --no-deps

tidy: ## Check the rules of the repository: arrows, sizes, documents, lockfile, manifests
	cargo xtask tidy

ladder: build ## Measure what a write costs, rung by rung (ARGS="8" for eight seconds a rung)
	$(BINARIES)/ladder $(ARGS)

bench: build ## Measure the state tree beside the jmt crate (ARGS="5000000" for five million keys, ARGS=packages for sizes of reads)
	$(BINARIES)/state_tree $(ARGS)

wasm: ## Build the verifier for WebAssembly and run it in Node on golden vectors, where that is possible
	@./proof/wasm/check.sh
