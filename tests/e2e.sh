#!/bin/sh
# Runs the end-to-end tests: directly where this machine's KVM runs guests, else in the emulated host.
#
# Usage: e2e.sh MICROKUBE [TEST ARGUMENT...]
set -eu
microkube=$1
shift

# The tests are built here in both cases: inside, compiling would take for ever.
binary=$(cargo --locked test --release --test e2e --no-run --message-format=json \
    | sed -n 's/.*"name":"e2e".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -n "$binary" ] || { echo "e2e: error: the test binary was not built" >&2; exit 1; }

if reason=$("$microkube" machine needed); then
    echo "e2e: in the emulated host (slow): $reason"
    status=0
    "$microkube" machine exec -- "$binary" "$@" || status=$?
    "$microkube" machine stop
    exit "$status"
fi
echo "e2e: directly on this machine: $reason"
exec "$binary" "$@"
