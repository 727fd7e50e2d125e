#!/bin/sh
# Builds the guest kernel: Debian's linux-source-6.12 with kernel.config -> build/guest/vmlinux.
#
# Usage: build-kernel.sh [OUT]      (default OUT: build/guest/vmlinux in the source tree)
#
# Needs the packages of install-requirements.sh. The result is kept until the configuration, this script, the compiler or the
# source package changes. Environment: JOBS (default: all processors).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../build/guest/vmlinux}
config=$here/kernel.config
source_archive=/usr/src/linux-source-6.12.tar.xz
jobs=${JOBS:-$(nproc)}

say() { printf 'guest kernel: %s\n' "$*"; }
die() { printf 'guest kernel: error: %s\n' "$*" >&2; exit 1; }

[ -f "$source_archive" ] || die "$source_archive is missing: apt-get install linux-source-6.12 (or run guest-image/install-requirements.sh)"
package=$(dpkg-query -W -f '${Version}' linux-source-6.12 2>/dev/null) || package=$(stat -c %s-%Y "$source_archive")

mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
key=$( { printf '%s\n' "$package"; gcc --version | head -n 1; cat "$config" "$0"; } | sha256sum | cut -d ' ' -f 1)
if [ -f "$out" ] && [ "$(cat "$out.key" 2>/dev/null)" = "$key" ]; then
    say "up to date ($out)"
    exit 0
fi

# One builder at a time; a second one waits and then finds the first one's result.
exec 9>"$out.lock"
flock 9
if [ -f "$out" ] && [ "$(cat "$out.key" 2>/dev/null)" = "$key" ]; then
    say "up to date ($out)"
    exit 0
fi

started=$(date +%s)
work=$(dirname "$out")/linux-build
log=$out.log
rm -rf "$work"
mkdir -p "$work/source" "$work/objects"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "unpacking linux-source-6.12 $package"
tar -xJf "$source_archive" -C "$work/source" --strip-components=1

# Reproducible: neither the time nor the builder ends up in the image.
export KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_USER=microkube KBUILD_BUILD_HOST=microkube
kernel_make() { make -C "$work/source" O="$work/objects" ARCH=x86_64 "$@"; }

kernel_make KCONFIG_ALLCONFIG="$config" allnoconfig >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "configuration failed (log: $log)"; }
cp "$work/objects/.config" "$out.config"

# Kconfig drops what its dependencies do not allow without a word.
lost=$(grep -E '^CONFIG_[A-Z0-9_a-z]+=' "$config" | grep -v '=n$' | grep -vxFf "$out.config" || true)
[ -z "$lost" ] || die "options that Kconfig did not accept: $(echo $lost)"

say "compiling with $jobs jobs (about 5 minutes on two processors; log: $log)"
mkfifo "$work/progress"
make -C "$work/source" O="$work/objects" ARCH=x86_64 -j "$jobs" vmlinux >"$work/progress" 2>&1 &
maker=$!
trap 'kill "$maker"; wait; exit 130' INT
trap 'kill "$maker"; wait; exit 143' TERM
# Progress: a line every 250 objects.
awk -v log_file="$log" '
    { print >> log_file }
    /^  (CC|AS|AR|LD|HOSTCC) / { if (++count % 250 == 0) { printf "guest kernel: %d files built\n", count; fflush() } }
' <"$work/progress" &
# Not in the foreground, where a signal would have to wait for its end.
wait "$!"
if ! wait "$maker"; then
    grep -iE 'error|undefined' "$log" | head -n 10 >&2 || tail -n 20 "$log" >&2
    die "compilation failed (log: $log)"
fi

strip --strip-debug -o "$out.tmp" "$work/objects/vmlinux"
mv "$out.tmp" "$out"
printf '%s\n' "$key" >"$out.key"
say "built $out ($(($(stat -c %s "$out") / 1024)) KiB) in $(($(date +%s) - started)) s"
