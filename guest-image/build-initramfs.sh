#!/bin/sh
# Builds the guest's root: an uncompressed cpio archive with only the agent as /init and the mount points that it needs
# first.
#
# Usage: build-initramfs.sh AGENT_BINARY [OUT]      (default OUT: build/guest/initramfs.cpio in the source tree)
#
# The output is reproducible: the same agent gives the same bytes. The format is "newc", as the kernel requires
# (Documentation/driver-api/early-userspace).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
say() { printf 'initramfs: %s\n' "$*"; }
die() { printf 'initramfs: error: %s\n' "$*" >&2; exit 1; }
[ $# -ge 1 ] && [ $# -le 2 ] || die "usage: build-initramfs.sh AGENT_BINARY [OUT]"
agent=$1
out=${2:-$here/../build/guest/initramfs.cpio}

[ -f "$agent" ] || die "$agent does not exist (build it: cargo build --release --target x86_64-unknown-linux-musl -p microkube-agent)"
command -v cpio >/dev/null || die "cpio is missing (run guest-image/install-requirements.sh)"
# There are no libraries in the guest's root: with a dynamic binary, the guest would panic with a puzzling "No such
# file".
if readelf -lW "$agent" 2>/dev/null | grep -q INTERP; then die "$agent is not static (build it for x86_64-unknown-linux-musl)"; fi

mkdir -p "$(dirname "$out")"
key=$(cat "$agent" "$0" | sha256sum | cut -d ' ' -f 1)
if [ -f "$out" ] && [ "$(cat "$out.key" 2>/dev/null)" = "$key" ]; then
    say "up to date ($out)"
    exit 0
fi

work=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree/proc" "$tree/sys" "$tree/run"
install -m 755 "$agent" "$tree/init"
find "$tree" -exec touch -h -d @0 {} +
(cd "$tree" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$work/cpio"

# The kernel connects PID 1's streams to /dev/console before anything is mounted. Creating a device node needs root, so
# its entry is written by hand: magic, inode, mode (character device, 0600), uid, gid, links, mtime, size, device 0:0,
# device 5:1, length of the name, checksum. The archive's trailer must be last, so the entry goes to the front, after
# its directory (dev).
entry() { printf '070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' "$@"; }
pad() { size=$(stat -c %s "$1"); head -c $(((4 - size % 4) % 4)) /dev/zero >>"$1"; }
entry 721 16877 0 0 2 0 0 0 0 0 0 4 0 dev >"$work/console"
pad "$work/console"
entry 722 8576 0 0 1 0 0 0 0 5 1 12 0 dev/console >>"$work/console"
pad "$work/console"
cat "$work/console" "$work/cpio" >"$work/result"

mv "$work/result" "$out"
printf '%s\n' "$key" >"$out.key"
say "built $out ($(($(stat -c %s "$out") / 1024)) KiB)"
