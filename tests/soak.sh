#!/bin/sh
# Runs the tests that find more the longer they run, one after another. A failure does not stop the others.
#
# Usage: soak.sh MICROKUBE
#        MICROKUBE_CHAOS_SECONDS (1800), MICROKUBE_STORAGE_SCALE (100), MICROKUBE_POWER_CUTS (30) and FUZZ_SECONDS (600
#        per target) set the durations.
set -u
here=$(cd "$(dirname "$0")" && pwd)
microkube=$(readlink -f "$1")
export MICROKUBE_PROGRAM="$microkube"
export MICROKUBE_CHAOS_SECONDS="${MICROKUBE_CHAOS_SECONDS:-1800}"
export MICROKUBE_STORAGE_SCALE="${MICROKUBE_STORAGE_SCALE:-100}"
export MICROKUBE_POWER_CUTS="${MICROKUBE_POWER_CUTS:-30}"
seconds=${FUZZ_SECONDS:-600}
trap 'exit 130' INT
trap 'exit 143' TERM

status=0
summary=

# part WHAT COMMAND...: runs a command, and adds its result to the summary
part() {
    what=$1
    shift
    echo "soak: $what"
    begun=$(date +%s)
    if "$@"; then result=passed; else result="FAILED (exit code $?)"; status=1; fi
    summary="$summary
soak: $what: $result after $(($(date +%s) - begun)) s"
}

# Do not capture the output, because the seed is useful even if the test passes.
part "random verbs and kills for $MICROKUBE_CHAOS_SECONDS s" "$here/on-kvm.sh" "$microkube" test e2e --nocapture chaos::
part "storage" "$here/on-kvm.sh" "$microkube" test e2e --nocapture --include-ignored storage
part "$MICROKUBE_POWER_CUTS power cuts" cargo --locked test --workspace --test power-cut -- --nocapture
part "fuzzing for $seconds s per target" "$here/fuzz/run.sh" "$seconds"
echo "$summary"
exit $status
