# microkube: build, run, test. Everything is cached: a second `make` only looks.
#
#   make build    the guest kernel, the agent, microkube, microkube-vmm, the emulated host's files -> build/ and target/
#   make run      what is needed, then the example Pod: nginx and a sidecar
#   make test     format, clippy, unit tests, then end-to-end tests that boot Pods: on this machine's KVM, or in the emulated host
#   make bench    the VMM against QEMU's microvm, pulls of images against podman
#   make clean    removes build/ and target/ (not: images and Pods in /var/lib/microkube)

.PHONY: all build lint requirements kernel programs initramfs test-initramfs machine example-images test-images run test unit-test \
	registry-test e2e bench clean
.DEFAULT_GOAL := build
.SUFFIXES:

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),$(CURDIR)/target)
MICROKUBE := $(TARGET_DIR)/release/microkube
GUEST_INIT := $(TARGET_DIR)/x86_64-unknown-linux-musl/agent/examples/guest-init
AGENT := $(TARGET_DIR)/x86_64-unknown-linux-musl/agent/microkube-agent
TEST_IMAGES := busybox small configured nginx debian-tools large
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

test: lint unit-test registry-test e2e

lint: requirements
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets -- -D warnings

unit-test: requirements
	@$(CARGO) test --workspace --lib --bins
	@tests/in-namespaces.sh

# A real registry, but no Pods: on this machine, whatever its KVM.
registry-test: requirements test-images
	@$(CARGO) test --test registry

e2e: build test-initramfs test-images
	@tests/on-kvm.sh $(MICROKUBE) test e2e

bench: build test-initramfs test-images
	@$(CARGO) bench --bench pull
	@tests/on-kvm.sh $(MICROKUBE) bench boot

clean:
	rm -rf build target
