# containerVM. `make help` lists what there is to do.
#
# Go keeps track of its own dependencies, so its rules run always and cost little; the guest's files depend on what they are
# made of. The kernel is cached outside the tree by the hash of its inputs (kernel-config/build).

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

GO ?= go
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
FUZZTIME ?= 10s

PROGRAMS := bin/cvm bin/cvm-supervisor bin/cvm-switch bin/hostd-bridge bin/controller bin/govc
# Of the programs and of what runs in the guest; scripts/version says what it looks like.
VERSION := $(shell scripts/version)
GUEST := bin/guest/vmlinux bin/guest/bzImage bin/guest/initramfs.cpio bin/guest/blank.vmdk bin/guest/volume.vmdk

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: deps-build ## build the programs and the guest's files into bin/
	@$(MAKE) -j2 guest programs

.PHONY: programs
programs: $(PROGRAMS)

.PHONY: guest
guest: $(GUEST)

.PHONY: run
run: deps-run ## run a container as a VM on this machine, with everything that needs
	@$(MAKE) -j2 guest programs bin/busybox-demo.tar
	@scripts/demo

.PHONY: test
test: deps-test ## run all tests, on real VMs too
	@$(MAKE) -j2 guest programs bin/docker $(if $(CVM_TEST_LONG),bin/compose-v2)
	@scripts/test

.PHONY: test-unit
test-unit: ## run the tests that start no VM, in less than a minute; TESTFLAGS= for flags of go test
	$(GO) test -short $(TESTFLAGS) ./...

.PHONY: lint
lint: deps-build ## golangci-lint (vet, staticcheck and more: .golangci.yml), govulncheck
	@echo '== golangci-lint'; $(GO) run $(GOLANGCI) run ./...
	@echo '== govulncheck'; scripts/vulncheck $(GOVULNCHECK)

.PHONY: bench
bench: deps-bench ## measure forks, peers and the floor of this machine, into bench/RESULTS.md; BENCH= for flags
	@$(MAKE) -j2 guest programs bin/debian.tar
	$(GO) run ./bench -guest bin/guest -supervisor bin/cvm-supervisor -root bin/debian.tar -out bench $(BENCH)

.PHONY: bench-quick
bench-quick: deps-bench ## the same in two minutes: prints, writes nothing
	@$(MAKE) programs guest
	$(GO) run ./bench -guest bin/guest -supervisor bin/cvm-supervisor -quick $(BENCH)

.PHONY: fuzz
fuzz: ## run each fuzz test for FUZZTIME (10s); FUZZKEEP=N keeps inputs that reach new code
	@FUZZTIME=$(FUZZTIME) scripts/fuzz

.PHONY: release
release: deps-run ## pack a release into bin/, unpack it elsewhere and run its demonstration
	@$(MAKE) -j2 guest programs bin/mkdemoimage
	@scripts/release check

.PHONY: clean
clean: ## remove bin/; the kernel's cache and the state of cvm stay
	rm -rf bin

.PHONY: deps-build deps-run deps-test deps-bench
deps-build deps-run deps-test deps-bench:
	@scripts/install-deps $(@:deps-%=%)

# --- programs of the host ---

bin/cvm: PACKAGE := ./cmd/cvm
bin/cvm-supervisor: PACKAGE := ./hostd-bridge/supervisor
bin/cvm-switch: PACKAGE := ./hostd-bridge/netswitch
bin/hostd-bridge: PACKAGE := ./hostd-bridge
bin/controller: PACKAGE := ./controller
bin/govc: PACKAGE := ./cmd/govc

.PHONY: FORCE
FORCE:

# go_build PACKAGE: build $@ and leave it alone, with its time, when it is as it was (`go build` would renew the time),
# so that what depends on it is not made again. A program that runs is replaced, not overwritten. All are built in one way:
# Go compiles a package once for each set of flags, and once more for programs with and without cgo.
go_build = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X github.com/containervm/containervm/internal/version.linked=$(VERSION)' -o bin/.go/$(@F) $(1) && { cmp -s bin/.go/$(@F) $@ || install bin/.go/$(@F) $@; }

$(PROGRAMS): FORCE | bin
	@$(call go_build,$(PACKAGE))

# --- the guest ---

bin/tether: FORCE | bin
	@$(call go_build,./tether)

bin/mkinitramfs: FORCE | bin
	@$(call go_build,./initramfs/cmd/mkinitramfs)

bin/guest/initramfs.cpio: bin/tether bin/mkinitramfs | bin/guest
	bin/mkinitramfs -init bin/tether -o $@

bin/guest/blank.vmdk: scripts/blank-disk | bin/guest
	scripts/blank-disk $@

bin/guest/volume.vmdk: scripts/blank-disk | bin/guest
	scripts/blank-disk --volume $@

# The kernel's make counts its own jobs; the Go programs are built beside it (-j2), in the times when it has but one.
# vmlinux stands for all three files. `install` replaces a file, so a machine that boots from the old one is not disturbed.
bin/guest/vmlinux: $(wildcard kernel-config/*.config) kernel-config/source.pin kernel-config/build | bin/guest
	@kernel=$$(env -u MAKEFLAGS -u MFLAGS kernel-config/build) && install -m 0644 -t bin/guest "$$kernel"/{bzImage,config,vmlinux}

bin/guest/bzImage: bin/guest/vmlinux ;

# --- the image of the demonstration ---

bin/mkdemoimage: FORCE | bin
	@$(call go_build,./internal/demoimage/cmd/mkdemoimage)

bin/busybox-demo.tar: bin/mkdemoimage
	bin/mkdemoimage -o $@

# --- what tests and benchmark need ---

bin/docker: scripts/docker-cli | bin
	scripts/docker-cli $@

# Docker's compose of today, for the conformance suite's long form.
bin/compose-v2: scripts/compose | bin
	scripts/compose $@

# What unpacking is measured with.
bin/debian.tar: | bin
	mmdebstrap --variant=minbase bookworm $@

bin bin/guest:
	@mkdir -p $@
