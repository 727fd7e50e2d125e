#!/bin/sh
# Runs a test or benchmark that needs KVM: directly where this machine's KVM runs guests, else in the emulated host. That has one
# processor, so that tests are shared between two of them where there are processors for both.
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
echo "$name: in the emulated host (slow): $reason"
# Machines of its own, fresh: one that runs already may be of another build, and is left alone.
base=$(mktemp -d "/var/tmp/microkube-$name.XXXXXX")

# of_machine NUMBER COMMAND...: with the directories of that machine.
of_machine() {
    directory=$base/$1
    shift
    MICROKUBE_STATE_DIR=$directory/state MICROKUBE_RUN_DIR=$directory/run "$@"
}

clean_up() {
    for number in 1 2; do
        [ ! -d "$base/$number" ] || of_machine "$number" "$microkube" machine stop >/dev/null 2>&1 || true
    done
    rm -rf "$base"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# run_in NUMBER ARGUMENT...: in that machine, which is started.
run_in() {
    number=$1
    shift
    of_machine "$number" "$microkube" machine exec -- "$binary" "$@"
}

status=0
if [ "$kind" = test ] && [ $# = 0 ] && [ "$(nproc)" -gt 1 ]; then
    all=$("$binary" --list --format terse | sed -n 's/: test$//p')
    [ -n "$all" ] || { echo "on-kvm: error: $name has no tests" >&2; exit 1; }
    first=$(echo "$all" | sed -n 'p;n')
    second=$(echo "$all" | sed -n 'n;p')
    # Names are exact then: one may be the beginning of another.
    run_in 2 --test-threads=1 --exact $second >"$base/second.log" 2>&1 &
    second_half=$!
    run_in 1 --test-threads=1 --exact $first || status=$?
    wait "$second_half" || status=$?
    cat "$base/second.log"
else
    [ "$kind" = bench ] || set -- --test-threads=1 "$@"
    run_in 1 "$@" || status=$?
fi
exit "$status"
