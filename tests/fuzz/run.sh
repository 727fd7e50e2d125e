#!/bin/sh
# Builds the fuzz targets, with coverage like cargo-fuzz but on the stable toolchain, and runs each for a few seconds,
# starting with its kept corpus. Failing inputs are left in build/fuzz/NAME/, with instructions to repeat the failure.
#
# Usage: run.sh SECONDS [NAME...]      (0 seconds: only the kept corpus)
#        run.sh --merge NAME DIRECTORY (adds new inputs from a directory to the kept corpus)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=x86_64-unknown-linux-gnu
export CARGO_TARGET_DIR=${MICROKUBE_FUZZ_TARGET_DIR:-$root/target/fuzz}

die() { printf 'fuzz: error: %s\n' "$*" >&2; exit 1; }

flags='--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4'
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"

mode=run
if [ "${1:-}" = --merge ]; then
    [ $# = 3 ] || die "usage: run.sh --merge NAME DIRECTORY"
    mode=merge
    seconds=0
    new=$3
    set -- "$2"
else
    [ $# -ge 1 ] || die "usage: run.sh SECONDS [NAME...]"
    seconds=$1
    shift
    [ $# -gt 0 ] || set -- $(sed -n '/^\[\[bin\]\]/,/^path/s/^name = "\(.*\)"/\1/p' "$here/Cargo.toml")
fi
case $seconds in '' | *[!0-9]*) die "not a number of seconds: $seconds" ;; esac

# With --target, build scripts do not get the flags.
RUSTFLAGS=$flags cargo build --locked --release --quiet --manifest-path "$here/Cargo.toml" --target "$target" --bins

# A target that is missing in Cargo.toml would never run.
for source in "$here"/targets/*/*.rs; do
    name=$(basename "$source" .rs)
    [ "$name" != mod ] || continue
    grep -q "^name = \"$name\"\$" "$here/Cargo.toml" || die "the target $name is not in Cargo.toml"
done

status=0
for name in "$@"; do
    binary=$CARGO_TARGET_DIR/$target/release/$name
    [ -x "$binary" ] || die "there is no target $name"
    [ -d "$here/corpus/$name" ] || die "the target $name has no corpus"
    if [ $mode = merge ]; then
        exec "$binary" -merge=1 "$here/corpus/$name" "$new"
    fi
    work=$root/build/fuzz/$name
    mkdir -p "$work/corpus"
    if [ "$seconds" = 0 ]; then limit=-runs=0; else limit=-max_total_time=$seconds; fi
    printf 'fuzz: %s\n' "$name"
    if "$binary" $limit -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=20 -max_len=65536 -print_final_stats=1 \
        -artifact_prefix="$work/" "$work/corpus" "$here/corpus/$name" >"$work/log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: */fuzz:   inputs tried: /p' "$work/log"
    else
        tail -n 40 "$work/log" >&2
        printf 'fuzz: %s failed; repeat it with %s FILE\n' "$name" "$binary" >&2
        status=1
    fi
done
exit $status
