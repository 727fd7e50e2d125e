#!/bin/sh
# Runs a test or benchmark that needs KVM: directly if this machine's KVM can run guests, otherwise in emulated hosts. A
# full run is then distributed over several hosts (in-emulated-hosts.sh); selected tests run in a single one.
#
# Usage: on-kvm.sh MICROKUBE test|bench NAME [ARGUMENT...]
set -eu
microkube=$1
kind=$2
name=$3
shift 3

# The program that the tests run.
MICROKUBE_PROGRAM=$(readlink -f "$microkube")
export MICROKUBE_PROGRAM

# Build here in both cases, because compiling in the emulated host would be far too slow. Tests only start programs, so
# they are built from the whole workspace without optimisation: after the unit tests, only the tests themselves are
# compiled.
case $kind in
    test) build="test --workspace --test $name" ;;
    bench) build="bench --bench $name" ;;
    *) echo "on-kvm: error: unknown kind $kind: use test or bench" >&2; exit 2 ;;
esac
binary=$(cargo --locked $build --no-run --message-format=json \
    | sed -n 's/.*"name":"'"$name"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -n "$binary" ] || { echo "on-kvm: error: $name was not built" >&2; exit 1; }

needed=0
reason=$("$microkube" machine needed) || needed=$?
case $needed in
    0) ;;
    1)
        echo "$name: on this machine: $reason"
        [ "$kind" = bench ] || set -- --test-threads=1 "$@"
        exec "$binary" "$@"
        ;;
    *) exit "$needed" ;;
esac
echo "$name: in emulated hosts (slow): $reason"
hosts=$(dirname "$0")/in-emulated-hosts.sh
if [ "$kind" = test ] && [ $# = 0 ]; then
    exec "$hosts" "$microkube" "$name" share "$binary"
fi
[ "$kind" = bench ] || set -- --test-threads=1 "$@"
exec "$hosts" "$microkube" "$name" run "$binary" "$@"
