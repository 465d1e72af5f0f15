# What a user types. `make help` lists it; the work is in tools/ and in `innover` itself.
SHELL := bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# Read by `innover` and tools/ from the environment or from `make up NAME=value` (docs/settings.md).
named = $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
settings = $(filter INNOVER_% DATABASE_% KAFKA_% REDIS_% CELERY_% SPIN_VARIABLE_%,$(named))

innover := target/release/innover
build_first := tools/build

# `make up` becomes `innover up` where make can: then signals and the exit code are its own
# (tools/become.c says why). `make -n up` only prints.
ifneq ($(and $(filter up spin-up,$(MAKECMDGOALS)),$(filter load,$(.FEATURES))),)
become_built := $(shell mkdir -p target; \
    { test target/become.so -nt tools/become.c || cc -shared -fPIC -O1 -o target/become.so tools/become.c; } 2>/dev/null && echo yes)
$(if $(become_built),$(eval load target/become.so))
endif
environment = $(foreach name,$(settings),$(name)='$($(name))')
dry_run = $(findstring n,$(firstword -$(MAKEFLAGS)))
in_place_of_make = $(if $(dry_run),,$(become $(environment) exec $(1)))

.PHONY: up down health workers logs demo smoke-test test-auth test-flow bench bench-servers test test-peers test-postgres test-kafka test-cluster test-crash test-peers-full bench-celery \
    lint format audit \
    train-scorer rebuild spin-up stack-up stack-down stack-check help

up: ## build what is missing, then run the platform in the foreground
	@$(call in_place_of_make,tools/up)
	@exec tools/up

down: ## stop a running `make up`
	@tools/down

health: ## what the running platform says of itself
	@tools/platform health

workers: ## job queues of the running platform
	@$(build_first)
	@$(innover) jobs queues

test-worker-%: ## fire a job on a service's queue (test-worker-profile) and wait for its result
	@$(build_first)
	@$(innover) jobs push $*.add 1 2 --wait 10

logs: ## follow the log of a running `make up`
	@tools/platform logs

demo: ## the main job against the running platform: token, payment, timeline
	@$(build_first)
	@$(innover) demo

smoke-test: ## does every door of the running platform answer as it should?
	@tools/platform smoke-test

test-auth: ## tokens and refusals of the running platform
	@tools/platform test-auth

test-flow: ## one payment through every service of the running platform
	@$(build_first)
	@$(innover) demo

train-scorer: ## the shipped fraud model from generated data: model.json and its report
	@cargo run --quiet --release -p scorer --example train

bench: ## throughput, latency, start-up and memory, as a table
	@$(build_first)
	@$(innover) bench

bench-servers: ## the same on PostgreSQL and Kafka, beside pgbench
	@$(build_first)
	@tests/peers/bench

test: ## unit, property, component and black-box tests on embedded storage
	@tools/test-services
	@$(build_first)
	@cargo test --release --workspace --config tests/native.toml

test-peers: ## against real peers: Celery per version, the platform on PostgreSQL, Kafka, several bridges on both
	@$(build_first)
	@code=0; tests/peers/run || code=1; tests/peers/servers || code=1; exit $$code

test-postgres: ## the black-box tests on a PostgreSQL of their own
	@$(build_first)
	@tests/peers/servers postgres

test-kafka: ## the bus on a Kafka of its own
	@tests/peers/servers kafka

test-cluster: ## several bridges on a PostgreSQL and a Kafka of their own
	@$(build_first)
	@tests/peers/servers cluster

test-crash: ## the crash matrix on a PostgreSQL and a Kafka, 20 rounds of each step and victim (two hours)
	@$(build_first)
	@INNOVER_CRASH_ROUNDS=$${INNOVER_CRASH_ROUNDS:-20} tests/peers/servers crash

test-peers-full: ## Celery's clients again, with 20,000 jobs under kill -9
	@$(build_first)
	@tests/peers/run --full

bench-celery: ## Celery's workers and ours on the same jobs, as a table
	@$(build_first)
	@tests/peers/run --install 5.7.0
	@target/peers/celery-5.7.0/bin/python tests/peers/celery/bench.py

lint: ## clippy over the whole workspace, warnings are errors
	@cargo clippy --release --workspace --all-targets -- --deny warnings

format: ## format the sources
	@cargo fmt --all

audit: ## known vulnerabilities in dependencies
	@command -v cargo-audit >/dev/null || { \
	    echo "make audit needs cargo-audit (cargo install --locked cargo-audit) and a way to the RustSec advisory database" >&2; \
	    exit 2; }
	@cargo audit

rebuild: ## ask cargo for everything, changed or not
	@tools/build --force

spin-up: ## the same app under stock Spin
	@$(call in_place_of_make,tools/spin-up)
	@exec tools/spin-up

stack-up: ## CockroachDB, Redis, Redpanda, host and bridge by docker compose (docs/deploy.md)
	@tools/stack up

stack-down: ## stop that stack; its data stays
	@tools/stack down

stack-check: ## that stack's files and settings, without an engine
	@tests/stack/run

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## /{printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
