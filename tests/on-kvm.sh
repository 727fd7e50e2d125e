#!/bin/sh
# Runs a test or benchmark that needs KVM: directly where this machine's KVM runs guests, else in the emulated host.
#
# Usage: on-kvm.sh MICROKUBE test|bench NAME [ARGUMENT...]
set -eu
microkube=$1
kind=$2
name=$3
shift 3

# Built here in both cases: inside, compiling would take for ever.
case $kind in
    test) set -- --test-threads=1 "$@" && build="test --release --test $name" ;;
    bench) build="bench --bench $name" ;;
    *) echo "on-kvm: error: neither test nor bench: $kind" >&2; exit 2 ;;
esac
binary=$(cargo --locked $build --no-run --message-format=json \
    | sed -n 's/.*"name":"'"$name"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -n "$binary" ] || { echo "on-kvm: error: $name was not built" >&2; exit 1; }

if ! reason=$("$microkube" machine needed); then
    echo "$name: directly on this machine: $reason"
    exec "$binary" "$@"
fi
echo "$name: in the emulated host (slow): $reason"
# A machine of its own, fresh: one that runs already may be of another build, and is left alone.
base=$(mktemp -d /var/tmp/microkube-$name.XXXXXX)
export MICROKUBE_STATE_DIR="$base/state" MICROKUBE_RUN_DIR="$base/run"
trap '"$microkube" machine stop >/dev/null 2>&1 || true; rm -rf "$base"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
status=0
"$microkube" machine exec -- env -u MICROKUBE_STATE_DIR -u MICROKUBE_RUN_DIR "$binary" "$@" || status=$?
exit "$status"
