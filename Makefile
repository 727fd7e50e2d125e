# microkube: build, run, test. Everything is cached: a second `make` only looks.
#
#   make build    the guest kernel, the agent, microkube, microkube-vmm, the emulated host's files -> build/ and target/
#   make run      what is needed, then the example Pod: nginx and a sidecar
#   make check    format, clippy, unit tests, and the structure: no circles of files, no imports upwards
#   make test     what guards a merge: `make check`, then end-to-end tests that boot Pods (on this machine's KVM, or in the emulated host)
#                 and power cuts
#   make soak     for hours: random deaths, power cuts and fuzzing (docs/testing.md)
#   make fuzz     looks for inputs that break the parsers: FUZZ_SECONDS=60 for each target
#   make coverage which lines tests run that need no virtual machine
#   make bench    the VMM against QEMU's microvm, pulls of images against podman
#   make clean    removes build/ and target/ (not: images and Pods in /var/lib/microkube)

.PHONY: all build check lint requirements kernel programs initramfs test-initramfs machine example-images test-images run test unit-test \
	structure image-test fuzz e2e power-cut-test soak coverage bench clean
.DEFAULT_GOAL := build
.SUFFIXES:

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
MICROKUBE := $(TARGET_DIR)/release/microkube
GUEST_INIT := $(TARGET_DIR)/x86_64-unknown-linux-musl/agent/examples/guest-init
AGENT := $(TARGET_DIR)/x86_64-unknown-linux-musl/agent/microkube-agent
TEST_IMAGES := busybox small configured nginx debian-tools network-tools large
CARGO := cargo --locked
# The VMM is linked statically: loading shared libraries would be a part of every Pod's start. (For a target named explicitly flags do not
# reach build scripts and procedural macros, which cannot be static.)
VMM_TARGET := x86_64-unknown-linux-gnu
VMM_CONFIG := target.$(VMM_TARGET).rustflags = ["-C", "target-feature=+crt-static"]
VMM_BUILT := $(TARGET_DIR)/$(VMM_TARGET)/release/microkube-vmm
# The programs find these by themselves when the target directory is the tree's own.
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
	@$(CARGO) build --profile agent --package microkube-agent --target x86_64-unknown-linux-musl

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

check: lint unit-test structure

test: requirements
	@guest-image/build-kernel-beside.sh build/guest/vmlinux $(MAKE) --no-print-directory check image-test
	@$(MAKE) --no-print-directory e2e power-cut-test

lint: requirements
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings
	@$(CARGO) metadata --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null

unit-test: requirements
	@$(CARGO) test --workspace --lib --bins
	@tests/in-namespaces.sh

# Which file imports which. Selected from the whole workspace, so that dependencies are built as for the unit tests.
structure: requirements
	@$(CARGO) test --workspace --test structure

# The image store against kernel and other tools, and pulls from a real registry: as root, but no Pods, whatever this machine's KVM.
image-test: requirements test-images
	@$(CARGO) test --workspace --test store --test registry

# Not for `make soak`, unless it is given.
FUZZ_SECONDS ?= 60
fuzz: requirements
	@tests/fuzz/run.sh $(FUZZ_SECONDS)

e2e: build test-initramfs test-images
	@tests/on-kvm.sh $(MICROKUBE) test e2e

# A whole host that loses its power; always an emulated one.
power-cut-test: build test-images
	@MICROKUBE_PROGRAM=$(MICROKUBE) $(CARGO) test --workspace --test power-cut

soak: build test-initramfs test-images
	@tests/soak.sh $(MICROKUBE)

# Not for `make test`: it proves nothing by itself.
coverage: requirements test-images
	@tests/coverage.sh

bench: build test-initramfs test-images
	@$(CARGO) bench --bench pull
	@tests/on-kvm.sh $(MICROKUBE) bench boot

clean:
	rm -rf build target
