# microkube: build, run, test. Everything is cached: a second `make` only looks.
#
#   make build    the guest kernel, the agent, microkube, microkube-vmm, the emulated host's files -> build/ and target/
#   make run      what is needed, then the example Pod: nginx and a sidecar
#   make test     unit tests, then end-to-end tests that boot Pods: on this machine's KVM, or in the emulated host
#   make bench    the VMM against QEMU's microvm
#   make clean    removes build/ and target/ (not: images and Pods in /var/lib/microkube)

.PHONY: all build requirements kernel programs initramfs machine images run test unit-test e2e bench clean
.DEFAULT_GOAL := build
.SUFFIXES:

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
MICROKUBE := $(TARGET_DIR)/release/microkube
AGENT := $(TARGET_DIR)/x86_64-unknown-linux-musl/release/microkube-agent
CARGO := cargo --locked
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
	@$(CARGO) build --release --workspace --exclude microkube-agent
	@$(CARGO) build --release --package microkube-agent --target x86_64-unknown-linux-musl

initramfs: programs
	@guest-image/build-initramfs.sh $(AGENT) build/guest/initramfs.cpio

machine: requirements
	@guest-image/build-emulated-host.sh build/machine

images: requirements
	@tests/images/build.sh

run: build images
	@examples/run.sh $(MICROKUBE)

test: unit-test e2e

unit-test: requirements
	@$(CARGO) test --workspace --lib --bins

e2e: build images
	@tests/images/build.sh large
	@tests/e2e.sh $(MICROKUBE)

bench: build
	@tests/bench.sh $(MICROKUBE)

clean:
	rm -rf build target
