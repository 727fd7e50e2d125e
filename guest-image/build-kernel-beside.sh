#!/bin/sh
# Builds the guest kernel while a command runs, at a lower priority than the command: the kernel takes the longest to
# build and depends on nothing else. Fails if either of the two fails; if the command fails, the build is stopped.
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
