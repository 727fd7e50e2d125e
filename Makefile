# microkube: build, run, test. Results are cached: a second `make` only checks them.
#
#   make build    the guest kernel, the agent, microkube, its VMM and file server, the emulated host's files -> build/ and target/
#   make run      builds what is needed, then runs the example Pod: nginx and a sidecar
#   make check    format, clippy, spelling, doc comments, dependencies (licences, sources), unit tests, and the structure: no import
#                 cycles between files, no imports upwards, no unused dependencies
#   make test     everything that a merge requires: `make check`, then end-to-end tests that boot Pods (on this machine's KVM, or in the emulated host)
#                 and power cuts
#   make package  builds Debian packages, and an archive for other distributions -> build/packages
#   make package-test  installs, upgrades and removes the packages in a bare Debian 12 root, in an emulated host
#   make soak     runs for hours: random kills, power cuts and fuzzing (docs/testing.md)
#   make fuzz     looks for inputs that break the parsers; FUZZ_SECONDS=60 for each target
#   make coverage shows which lines are covered by tests that need no virtual machine
#   make bench    compares the VMM with QEMU's microvm, pulls and volumes with podman
#   make bench-counted  volumes again, in instructions instead of time (slow)
#   make clean    removes build/ and target/, but not images and Pods in /var/lib/microkube

.PHONY: all build check lint spelling doc deny requirements kernel programs initramfs test-initramfs machine example-images test-images run \
	test unit-test structure image-test fuzz e2e power-cut-test package package-test soak coverage bench bench-counted clean
.DEFAULT_GOAL := build
.SUFFIXES:

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
MICROKUBE := $(TARGET_DIR)/release/microkube
GUEST_INIT := $(TARGET_DIR)/x86_64-unknown-linux-musl/agent/examples/guest-init
AGENT := $(TARGET_DIR)/x86_64-unknown-linux-musl/agent/microkube-agent
TEST_IMAGES := busybox small configured nginx debian-tools network-tools database large
CARGO := cargo --locked
# The VMM is linked statically, because loading shared libraries would slow down the start of every Pod. (With an
# explicit target, the flags do not apply to build scripts and procedural macros, which cannot be static.)
VMM_TARGET := x86_64-unknown-linux-gnu
VMM_CONFIG := target.$(VMM_TARGET).rustflags = ["-C", "target-feature=+crt-static"]
# The file server of Pods; static for the same reason.
FILE_SERVER_TARGET := x86_64-unknown-linux-musl
FILE_SERVER_BUILT := $(TARGET_DIR)/$(FILE_SERVER_TARGET)/release/microkube-file-server
VMM_BUILT := $(TARGET_DIR)/$(VMM_TARGET)/release/microkube-vmm
STATIC_MICROKUBE := $(TARGET_DIR)/x86_64-unknown-linux-musl/release/microkube
# The programs find these by themselves if the target directory is inside the source tree.
export MICROKUBE_GUEST_DIR := $(CURDIR)/build/guest
export MICROKUBE_MACHINE_DIR := $(CURDIR)/build/machine

all: build

build: requirements kernel programs initramfs machine

requirements:
	@guest-image/install-requirements.sh

kernel: requirements
	@guest-image/build-kernel.sh build/guest/vmlinux

programs: requirements
	@$(CARGO) build --release --package microkube
	@$(CARGO) build --release --package microkube-vmm --target $(VMM_TARGET) --config '$(VMM_CONFIG)'
	@cmp -s $(VMM_BUILT) $(TARGET_DIR)/release/microkube-vmm || install $(VMM_BUILT) $(TARGET_DIR)/release/microkube-vmm
	@$(CARGO) build --release --package microkube-file-server --target $(FILE_SERVER_TARGET)
	@cmp -s $(FILE_SERVER_BUILT) $(TARGET_DIR)/release/microkube-file-server || install $(FILE_SERVER_BUILT) $(TARGET_DIR)/release/microkube-file-server
	@$(CARGO) build --profile agent --package microkube-agent --target x86_64-unknown-linux-musl

# The program of the archive for other distributions. With musl, because glibc loads libraries of the system for host
# names even if it is linked statically.
static-program: requirements
	@$(CARGO) build --release --package microkube --target x86_64-unknown-linux-musl

initramfs: programs
	@guest-image/build-initramfs.sh $(AGENT) build/guest/initramfs.cpio

# A PID 1 for tests and benchmarks of the VMM alone.
test-initramfs: requirements
	@$(CARGO) build --profile agent --package microkube-agent --example guest-init --target x86_64-unknown-linux-musl
	@guest-image/build-initramfs.sh $(GUEST_INIT) build/guest/test-initramfs.cpio

machine: requirements
	@guest-image/build-emulated-host.sh build/machine

example-images: requirements
	@tests/images/build.sh nginx debian-tools

test-images: requirements
	@tests/images/build.sh $(TEST_IMAGES)
	@tests/images/build-registry.sh $(TEST_IMAGES)

run: build example-images
	@examples/run.sh $(MICROKUBE)

check: lint spelling doc deny unit-test structure

test: requirements
	@guest-image/build-kernel-beside.sh build/guest/vmlinux $(MAKE) --no-print-directory check image-test
	@$(MAKE) --no-print-directory e2e power-cut-test

lint: requirements
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) metadata --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null

spelling: requirements
	@tests/spelling.sh

# Documentation of all items, including private ones, in target/doc. A warning, such as a broken link, is an error.
doc: requirements
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --document-private-items

deny: requirements
	@tests/deny.sh

unit-test: requirements
	@$(CARGO) test --workspace --lib --bins
	@tests/in-namespaces.sh
	@tests/packages/version.sh
	@tests/packages/third-party-licences.sh

# Which files may import which, and whether every declared dependency is used. Selected from the whole workspace, so that
# dependencies are built as for the unit tests.
structure: requirements
	@$(CARGO) test --workspace --test structure

# Tests the image store against the kernel and other tools, and pulls from a real registry. Runs as root, but starts no
# Pods, so this machine's KVM does not matter.
image-test: requirements test-images
	@$(CARGO) test --workspace --test store --test registry

# `make soak` has its own default for this (tests/soak.sh).
FUZZ_SECONDS ?= 60
fuzz: requirements
	@tests/fuzz/run.sh $(FUZZ_SECONDS)

e2e: build test-initramfs test-images
	@tests/on-kvm.sh $(MICROKUBE) test e2e

# Cuts the power of a whole host, which is always an emulated one.
power-cut-test: build test-images
	@MICROKUBE_PROGRAM=$(MICROKUBE) $(CARGO) test --workspace --test power-cut

# Embeds the commit (src/build_id.rs).
package: export MICROKUBE_COMMIT := $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null)
package: build static-program
	@packaging/build.sh $(MICROKUBE) $(STATIC_MICROKUBE) build/packages

# Not yet part of `make test`.
package-test: package
	@tests/images/build.sh busybox
	@tests/packages/run.sh $(MICROKUBE) build/packages

soak: build test-initramfs
	@tests/pjdfstest.sh
	@tests/images/build.sh $(TEST_IMAGES) storage-tools
	@tests/images/build-registry.sh $(TEST_IMAGES) storage-tools
	@tests/soak.sh $(MICROKUBE)

# Not part of `make test`, because it proves nothing by itself.
coverage: requirements test-images
	@tests/coverage.sh

bench: build test-initramfs test-images
	@$(CARGO) bench --bench pull
	@tests/on-kvm.sh $(MICROKUBE) bench boot
	@tests/on-kvm.sh $(MICROKUBE) bench storage

# Volumes in an emulated host whose clock counts instructions: repeatable, but slow. One run, because the next differs by 1 %.
bench-counted: export PATH := $(CURDIR)/tests/bench/counting-host:$(PATH)
bench-counted: export MICROKUBE_BENCH_RUNS ?= 1
bench-counted: export MICROKUBE_BENCH_MIB ?= 8
bench-counted: build test-images
	@tests/on-kvm.sh $(MICROKUBE) bench storage

clean:
	rm -rf build target
