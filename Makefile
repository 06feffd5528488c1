# `make demo` and `make test` are the two that matter; `make help` lists the rest.

PROFILE ?= release
CARGO   ?= cargo

# Where cargo puts binaries: the dev profile's folder is called debug.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN        := $(TARGET_DIR)/$(if $(filter dev test,$(PROFILE)),debug,$(PROFILE))
BINARIES   := -p gabion -p gabiond -p gabion-guard

# What is released has no paths of the machine that built it, so that another one makes the same bytes. RUSTFLAGS takes
# the place of flags in Cargo's configuration; of prefixes that fit, the last is taken.
CARGO_DIR := $(or $(CARGO_HOME),$(HOME)/.cargo)
NO_PATHS  := $(foreach path,$(CURDIR)=gabion $(abspath $(TARGET_DIR))=target $(CARGO_DIR)=cargo,--remap-path-prefix=$(path))
BUILD     := $(if $(filter release,$(PROFILE)),RUSTFLAGS="$(NO_PATHS)") $(CARGO) build --locked --profile $(PROFILE)

.PHONY: image image-boot boot-test boot-quick help demo build test check check-deploy bench bench-cluster bench-sync bench-rules bench-tables bench-programs fuzz simulate equality lab-down clean setup-build setup-lab
.DEFAULT_GOAL := help

help: ## Lists what make can do here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PROFILE=dev builds faster and runs slower; default: release."
	@echo "  BENCH='--pairs 4 --only stream-gso' passes options to the comparison; BENCH=--help lists them."

demo: setup-build setup-lab build ## Installs what is missing, builds, and shows connections that outlive their node (root)
	@$(BIN)/gabion lab run story
	@echo "  One node alone, tried with curl, ping, traceroute, iperf3 and dig: $(BIN)/gabion lab run path"

build: setup-build ## Builds gabion, gabiond and gabion-guard
	$(BUILD) $(BINARIES)

# Root runs the tests in network namespaces too; they start the binaries of the same profile. Those are built along
# with the tests: alone they have fewer features of what both need, which would be built twice.
IS_ROOT := $(filter 0,$(shell id -u))
test: setup-build setup-lab ## Runs all tests (root: those in namespaces with real programs too, and boots the image)
	$(CARGO) build --locked --workspace --bins --tests
	$(if $(IS_ROOT),GABION_NETNS=1) $(CARGO) test --locked --workspace
	$(if $(IS_ROOT),@$(MAKE) --no-print-directory boot-quick)

# The image of the programs that have been tested, without firmware: a minute, and two to install its packages.
boot-quick: BIN := $(TARGET_DIR)/debug
boot-quick:
	@setup/install image
	@$(BIN)/image build --binaries $(BIN) --out $(TARGET_DIR)/test-image
	@$(BIN)/gabion lab run boot --quick --direct --image $(TARGET_DIR)/test-image

check: setup-build ## Formatting, lints, licences
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	if command -v cargo-deny >/dev/null; then $(CARGO) deny --locked check bans licenses sources; fi

check-deploy: ## Checks the templates for Azure against each other and against our settings: docs/deploy-azure.md
	@setup/install deploy
	image/deploy/check

bench: setup-build setup-lab ## Compares the appliance with the kernel's firewall: 40 minutes on an idle machine (root)
	$(BUILD) $(BINARIES) -p gabion-benches
	@$(BIN)/peer --report $(TARGET_DIR)/bench-report $(BENCH)

bench-cluster: setup-build setup-lab ## Two nodes between load balancers, beside conntrackd and source NAT: five minutes (root)
	@setup/install bench
	$(BUILD) $(BINARIES) -p gabion-benches --bin gabion --bin gabiond --bin gabion-guard --bin peer
	@$(BIN)/peer --cluster 2 $(BENCH)

# Coverage for libFuzzer, on stable Rust; --target keeps it out of build scripts and macros. Not
# --cfg fuzzing, under which smoltcp takes every checksum for right.
TARGET     ?= walk
SECONDS    ?= 60
FUZZ_HOST  := $(shell uname -m)-unknown-linux-gnu
FUZZ_FLAGS := --cfg libfuzzer -C passes=sancov-module $(addprefix -C llvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
FUZZ_FOUND := $(TARGET_DIR)/fuzz-found/$(TARGET)

fuzz: setup-build ## Looks for bytes that break one target: TARGET=walk SECONDS=60 (docs/fuzzing.md)
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --locked --profile fuzz --target $(FUZZ_HOST) -p gabion-fuzz
	@mkdir -p $(FUZZ_FOUND)
	GABION_FUZZ_TARGET=$(TARGET) $(TARGET_DIR)/$(FUZZ_HOST)/fuzz/fuzz -max_total_time=$(SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=4096 \
		-artifact_prefix=$(FUZZ_FOUND)/ -print_final_stats=1 $(FUZZ_FOUND) fuzz/corpus/$(TARGET)

bench-sync: setup-build ## Measures what nodes tell each other of flows, and how they take them over
	$(BUILD) -p gabion-benches --bin sync
	@$(BIN)/sync $(BENCH)

bench-rules: setup-build ## Measures the rule matcher and policy changes, with nftables beside them (root)
	$(BUILD) -p gabion-benches
	@$(BIN)/rules $(BENCH)
bench-tables: setup-build ## Measures the flow table and the port allocator alone: two minutes, 8 GiB
	$(BUILD) -p gabion-benches --bin tables
	@$(BIN)/tables $(BENCH)

bench-programs: setup-build ## Measures the fast path's programs alone, packet by packet: half a minute (root)
	$(BUILD) -p gabion-benches --bin programs
	@$(BIN)/programs $(BENCH)

simulate: setup-build ## Runs the cluster's simulator: SECONDS=600, or SEED=7 for one schedule again
	$(BUILD) -p gabion-tests --bin simulate
	@$(BIN)/simulate $(if $(SEED),--seed $(SEED),$(SECONDS))

equality: setup-build ## Gives both datapaths the same fresh packets: SECONDS=600, or SEED=7 for one sequence again (root)
	GABION_NETNS=1 GABION_EQUALITY_SECONDS=$(SECONDS) $(if $(SEED),GABION_EQUALITY_SEED=$(SEED)) \
		$(CARGO) test --locked -p gabion-tests --test main equality -- --nocapture

image: build ## Builds the VM image, its upgrade bundle and its SBOM into target/image (root); docs/image.md
	@setup/install image
	$(BUILD) -p gabion-provision -p gabion-image
	@$(BIN)/image build --binaries $(BIN) --out $(TARGET_DIR)/image $(IMAGE)

boot-test: image ## Boots the image in QEMU, one alone, upgraded, and two between load balancers: half an hour (root)
	@$(BIN)/gabion lab run boot --image $(TARGET_DIR)/image
	@$(BIN)/image build --binaries $(BIN) --out $(TARGET_DIR)/image --label next --only-bundle $(filter-out --fresh,$(IMAGE))
	@$(BIN)/gabion lab run upgrade --image $(TARGET_DIR)/image --bundle $(TARGET_DIR)/image/gabion-$$(cat $(TARGET_DIR)/image/VERSION).next.bundle.tar
	@$(BIN)/gabion lab run asymmetric --image $(TARGET_DIR)/image
	@$(BIN)/gabion lab run failover --by power-off $(TWO_MACHINES)
	@$(BIN)/gabion lab run restart $(TWO_MACHINES)

# As many live connections as translated instructions can keep up with, behind balancers that move them.
TWO_MACHINES = --balancer steer --connections 120 --per-second 40 --image $(TARGET_DIR)/image

image-boot: ## Boots the last image in QEMU and says when gabiond is up
	@$(BIN)/image boot --out $(TARGET_DIR)/image $(IMAGE)

lab-down: ## Removes what an interrupted lab has left behind (root)
	$(BIN)/gabion lab down

clean: ## Removes everything that was built
	$(CARGO) clean

setup-build:
	@setup/install build

setup-lab:
	@setup/install lab
