#!/bin/sh
# Runs a test or benchmark that needs KVM: directly where this machine's KVM runs guests, else in emulated hosts, where all tests are
# shared (in-emulated-hosts.sh); chosen ones run in one.
#
# Usage: on-kvm.sh MICROKUBE test|bench NAME [ARGUMENT...]
set -eu
microkube=$1
kind=$2
name=$3
shift 3

# What the tests run.
MICROKUBE_PROGRAM=$(readlink -f "$microkube")
export MICROKUBE_PROGRAM

# Built here in both cases: inside, compiling would take for ever. Tests only start programs: they are selected from the whole workspace,
# and not optimised, so that nothing but themselves is compiled after the unit tests.
case $kind in
    test) build="test --workspace --test $name" ;;
    bench) build="bench --bench $name" ;;
    *) echo "on-kvm: error: neither test nor bench: $kind" >&2; exit 2 ;;
esac
binary=$(cargo --locked $build --no-run --message-format=json \
    | sed -n 's/.*"name":"'"$name"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -n "$binary" ] || { echo "on-kvm: error: $name was not built" >&2; exit 1; }

if ! reason=$("$microkube" machine needed); then
    echo "$name: directly on this machine: $reason"
    [ "$kind" = bench ] || set -- --test-threads=1 "$@"
    exec "$binary" "$@"
fi
echo "$name: in emulated hosts (slow): $reason"
hosts=$(dirname "$0")/in-emulated-hosts.sh
if [ "$kind" = test ] && [ $# = 0 ]; then
    exec "$hosts" "$microkube" "$name" share "$binary"
fi
[ "$kind" = bench ] || set -- --test-threads=1 "$@"
exec "$hosts" "$microkube" "$name" run "$binary" "$@"
