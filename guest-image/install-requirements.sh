#!/bin/sh
# Installs the Debian packages that building, testing and the emulated host need. Installs only what is missing,
# quietly, and starts no services.
#
# Usage: install-requirements.sh [--print]      (--print: lists what is missing and installs nothing)
set -eu

# For building the guest kernel, the initramfs and the agent (musl).
packages='linux-source-6.12 gcc make flex bison bc libelf-dev libssl-dev xz-utils cpio binutils musl-tools'
# For the packages of microkube.
packages="$packages dpkg-dev"
# For the emulated host.
packages="$packages qemu-system-x86 busybox-static kmod e2fsprogs"
# For test images and a test registry.
packages="$packages umoci skopeo docker-registry mmdebstrap erofs-utils curl nftables apache2-utils"
# Other tools that build, load and pull images, strace, for tests and benchmarks, and the compiler of the fuzzing engine.
packages="$packages buildah podman strace g++"
# For the spell checker (tests/spelling.sh).
packages="$packages python3-venv"

say() { printf 'requirements: %s\n' "$*"; }
die() { printf 'requirements: error: %s\n' "$*" >&2; exit 1; }

command -v dpkg-query >/dev/null || die "this is not a Debian system: install these yourself: $packages"
missing=
for package in $packages; do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) || status=
    case $status in *' installed') ;; *) missing="$missing $package" ;; esac
done
if [ "${1:-}" = --print ]; then
    [ -z "$missing" ] || printf '%s\n' $missing
    exit 0
fi

if [ -n "$missing" ]; then
    [ "$(id -u)" = 0 ] || die "missing packages, and only root can install them: apt-get install --no-install-recommends$missing"
    say "installing$missing"
    # Debian starts services on installation (docker-registry) unless this file forbids it (invoke-rc.d(8)).
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    install() { apt-get -qq -y -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 install --no-install-recommends $missing </dev/null >"$log" 2>&1; }
    # The package lists may be missing or outdated.
    install || { apt-get -qq update </dev/null >>"$log" 2>&1 && install; } || { tail -n 30 "$log" >&2; rm -f "$log"; die "apt-get failed"; }
    rm -f "$log"
fi

if ! command -v cargo >/dev/null; then
    die "Rust is missing: https://rustup.rs"
fi
if command -v rustup >/dev/null; then
    rustup target list --installed | grep -qx x86_64-unknown-linux-musl || {
        say "adding the Rust target x86_64-unknown-linux-musl"
        rustup --quiet target add x86_64-unknown-linux-musl
    }
elif [ ! -d "$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-musl" ]; then
    die "the Rust target x86_64-unknown-linux-musl is missing (rustup target add x86_64-unknown-linux-musl)"
fi
