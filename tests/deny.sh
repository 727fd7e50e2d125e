#!/bin/sh
# Checks the dependencies of both workspaces by the rules in deny.toml, without advisories. Advisories need the network
# and change without a commit, so only the CI workflow checks them. Uses the cargo-deny in PATH. If there is none,
# compiles one below build/ (two minutes of processor time, once).
#
# Usage: deny.sh
set -eu
cd "$(dirname "$0")/.."

version=0.20.2
installed=$PWD/build/cargo-deny-$version

if ! command -v cargo-deny >/dev/null; then
    if [ ! -x "$installed/bin/cargo-deny" ]; then
        echo "deny: compiling cargo-deny $version (about 2 minutes)"
        mkdir -p build
        new=$(mktemp -d build/cargo-deny-new.XXXXXX)
        trap 'rm -rf "$new"' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        # Build without optimisation: the check takes seconds either way.
        CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --debug --locked --version "=$version" --root "$new" cargo-deny ||
            { echo "deny: error: cannot install cargo-deny $version from crates.io" >&2; exit 1; }
        chmod 755 "$new"
        # This fails if another process was faster.
        mv -T "$new" "$installed" 2>/dev/null || [ -x "$installed/bin/cargo-deny" ] ||
            { echo "deny: error: cannot create $installed" >&2; exit 1; }
        rm -rf "$new"
    fi
    PATH=$installed/bin:$PATH
fi
for manifest in Cargo.toml tests/fuzz/Cargo.toml; do
    # Download the missing dependencies: cargo-deny also reads those of other platforms, which builds do not download.
    cargo --locked metadata --format-version 1 --manifest-path "$manifest" >/dev/null
    cargo deny --offline --locked --manifest-path "$manifest" --config deny.toml check bans licenses sources
done
