# Gatelog's everyday commands. `make help` lists them.

export CARGO_TARGET_DIR ?= $(HOME)/.cache/gatelog/target
# Where rustup puts cargo, which the shell that called make may not know yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)

DATA_DIR ?= ./data
LISTEN ?= 127.0.0.1:8080

.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench demo demo-kafka demo-feeds peers takeover fuzz

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' Makefile | expand -t 20

setup: ## install what this machine lacks for building (done by the others as needed)
	@scripts/setup

run: setup ## build and start a server on http://localhost:8080, with its data in ./data
	cargo build --quiet --workspace --bin gatelog
	exec "$(CARGO_TARGET_DIR)/debug/gatelog" serve --listen "$(LISTEN)" --data-dir "$(DATA_DIR)"

test: setup ## run all tests
	cargo test --workspace --features failpoints
	@scripts/peers
	@echo "make test: every test passed."

lint: setup ## check formatting, lints, dependencies and the architecture's rules
	@scripts/lint

bench: setup ## measure, and write docs/benchmarks.md
	cargo build --release --workspace --bin gatelog
	@mkdir -p docs
	"$(CARGO_TARGET_DIR)/release/gatelog" bench --output docs/benchmarks.md

demo: ## register, log in and change thousands of users while the server is killed 20 times, then check (DEMO_USERS=500 is quick)
	@scripts/setup --demo
	@scripts/demo

demo-kafka: ## the same on three nodes and three Kafka brokers, which are killed, paused, restarted, cut off and away meanwhile (DEMO_USERS=200 is quick)
	@scripts/setup --demo --kafka
	@scripts/demo-kafka

demo-feeds: ## five kinds of receivers follow a feed of 50,000 users who withdraw and are erased, while everybody is killed, then check (DEMO_USERS=500 is quick)
	@scripts/setup --demo --kafka
	@scripts/demo-feeds

peers: setup ## hold webhooks, connectors and the AsyncAPI document against published libraries (a part of `make test`)
	@scripts/peers

takeover: ## restart and kill nodes on Kafka, and print how long writes wait and reads take
	@scripts/setup --demo --kafka
	@scripts/takeover

fuzz: setup ## run each fuzz target for FUZZ_SECONDS (default 300)
	@scripts/fuzz
