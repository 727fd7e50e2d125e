#!/bin/sh
# Builds the guest kernel, which takes the longest of all and needs nothing else, while a command runs: on what that leaves of the processors.
# Fails if one of the two fails; the command's failure ends the build.
#
# Usage: build-kernel-beside.sh OUT COMMAND...
set -u

here=$(cd "$(dirname "$0")" && pwd)
out=$1
shift
log=$out.beside.log
mkdir -p "$(dirname "$out")"

nice "$here/build-kernel.sh" "$out" >"$log" 2>&1 &
kernel=$!
"$@" &
command=$!

# end STATUS
end() {
    kill "$kernel" "$command" 2>/dev/null
    wait
    exit "$1"
}
trap 'end 130' INT
trap 'end 143' TERM

status=0
wait "$command" || status=$?
[ "$status" = 0 ] || end "$status"
wait "$kernel" || status=$?
[ "$status" = 0 ] || cat "$log" >&2
exit "$status"
