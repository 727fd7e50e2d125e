#!/bin/sh
# Builds what the emulated host boots: Debian's own kernel (downloaded with apt, unpacked, never installed) and an
# initramfs.
#
# Usage: build-emulated-host.sh [OUT_DIR]      (default: build/machine in the source tree)
#
#   OUT_DIR/vmlinuz         Debian's generic kernel (the cloud kernel has no 9p)
#   OUT_DIR/initramfs.cpio  busybox, emulated-host-init.sh as /init, and the modules needed to reach the shared root
#   OUT_DIR/modules/        /lib/modules of the machine, uncompressed: in the machine, decompressing costs more than reading
#
# The result is kept until Debian publishes another kernel or this script or emulated-host-init.sh changes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../build/machine}
init=$here/emulated-host-init.sh
# Modules that the initramfs loads, with their dependencies: the shared root, its overlay, the state disk's file system,
# the network card.
boot_modules='9pnet_virtio 9p overlay virtio_blk crc32c_generic crc32c-intel ext4 virtio_net'

say() { printf 'emulated host: %s\n' "$*"; }
die() { printf 'emulated host: error: %s\n' "$*" >&2; exit 1; }

for tool in busybox cpio depmod dpkg-deb apt-cache xz; do
    command -v "$tool" >/dev/null || [ -x "/sbin/$tool" ] || die "$tool is missing (run guest-image/install-requirements.sh)"
done
PATH=$PATH:/usr/sbin:/sbin

# The newest 6.12 kernel that this machine's apt knows; older backports have only the versioned packages.
package=$(apt-cache depends linux-image-6.12-amd64 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
[ -n "$package" ] || package=$(apt-cache search --names-only '^linux-image-6\.12[-.+0-9a-z]*-amd64$' | awk '{ print $1 }' \
    | grep -vE 'cloud|rt-|unsigned|dbg' | sort -V | tail -n 1)
version=
[ -z "$package" ] || version=$(apt-cache policy "$package" | awk '$1 == "Candidate:" { print $2 }')
if [ -z "$version" ] || [ "$version" = '(none)' ]; then
    # If this machine has no package lists (for example because they were cleaned up), the previous result is still
    # good.
    [ -f "$out/key" ] && { say "no package lists: keeping what was built before ($out)"; exit 0; }
    die "apt knows no linux-image-6.12 kernel: run apt-get update (Debian 12 has it in bookworm-security)"
fi

key=$( { printf '%s %s\n' "$package" "$version"; cat "$init" "$0"; sha256sum <"$(command -v busybox)"; } | sha256sum | cut -d ' ' -f 1)
mkdir -p "$out"
out=$(cd "$out" && pwd)
exec 9>"$out.lock"
flock 9
if [ "$(cat "$out/key" 2>/dev/null)" = "$key" ]; then
    say "up to date ($out)"
    exit 0
fi

started=$(date +%s)
work=$out.new
rm -rf "$work"
mkdir -p "$work/unpacked" "$work/result" "$work/initramfs"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "fetching $package $version"
(cd "$work" && apt-get download -q "$package" >apt.log 2>&1) || { cat "$work/apt.log" >&2; die "apt-get download $package failed"; }
dpkg-deb -x "$work"/linux-image-*.deb "$work/unpacked"
release=$(basename "$work"/unpacked/lib/modules/*)
cp "$work/unpacked/boot/vmlinuz-$release" "$work/result/vmlinuz"

# Only modules that are useful without hardware: no sound, graphics, media or physical network cards.
say "unpacking modules of $release"
from=$work/unpacked/lib/modules/$release
to=$work/result/modules/$release
mkdir -p "$to/kernel/drivers/net"
cp "$from"/modules.builtin* "$from/modules.order" "$to/"
for part in arch block crypto fs lib mm net virt; do
    [ -d "$from/kernel/$part" ] && cp -a "$from/kernel/$part" "$to/kernel/$part"
done
for part in block char crypto md vhost vdpa virt virtio; do
    [ -d "$from/kernel/drivers/$part" ] && cp -a "$from/kernel/drivers/$part" "$to/kernel/drivers/$part"
done
for part in bonding dummy geneve ifb ipvlan macvlan net_failover tap tun veth virtio_net vrf vsockmon vxlan wireguard; do
    [ -e "$from/kernel/drivers/net/$part" ] && cp -a "$from/kernel/drivers/net/$part" "$to/kernel/drivers/net/"
    [ -e "$from/kernel/drivers/net/$part.ko.xz" ] && cp -a "$from/kernel/drivers/net/$part.ko.xz" "$to/kernel/drivers/net/"
done
# Modules in other directories on which the copied ones depend.
depmod -b "$work/unpacked" "$release"
find "$to" -name '*.ko.xz' -printf 'kernel/%P\n' | sed "s|^kernel/kernel/|kernel/|" | sort >"$work/kept"
awk -F ': *' 'NR == FNR { kept[$1] = 1; next } ($1 in kept) { n = split($2, d, " "); for (i = 1; i <= n; i++) if (!(d[i] in kept)) print d[i] }' \
    "$work/kept" "$from/modules.dep" | sort -u | while read -r dependency; do
    mkdir -p "$to/$(dirname "$dependency")"
    cp "$from/$dependency" "$to/$dependency"
done
find "$to" -name '*.ko.xz' -print0 | xargs -0 -n 64 -P "$(nproc)" xz -d
# modules.order still names the compressed files.
sed -i 's/\.ko\.xz$/.ko/' "$to/modules.order"
mkdir -p "$work/depmod-root/lib"
ln -s "$work/result/modules" "$work/depmod-root/lib/modules"
depmod -b "$work/depmod-root" "$release"

tree=$work/initramfs
mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/sys" "$tree/host" "$tree/control" "$tree/lib/modules" "$tree/memory" "$tree/root" "$tree/boot"
cp "$(command -v busybox)" "$tree/bin/busybox"
for applet in sh mount umount mkdir insmod modprobe cat cp ln ip ifconfig route sysctl switch_root poweroff sleep chmod hostname rmdir; do
    ln -s busybox "$tree/bin/$applet"
done
install -m 755 "$init" "$tree/init"
for module in $boot_modules; do
    path=$(grep -E "/$module\.ko:" "$to/modules.dep") || continue # built in
    deps=${path#*:}
    # modules.dep lists the nearest dependency first, but it has to be loaded last.
    reversed=
    for dep in $deps; do reversed="$dep $reversed"; done
    for file in $reversed "${path%%:*}"; do
        base=$(basename "$file")
        [ -e "$tree/boot/$base" ] && continue
        cp "$to/$file" "$tree/boot/$base"
        echo "$base" >>"$tree/boot/order"
    done
done
find "$tree" -exec touch -h -d @0 {} +
(cd "$tree" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 --reproducible) >"$work/result/initramfs.cpio"

printf '%s\n' "$key" >"$work/result/key"
rm -rf "$out"
mv "$work/result" "$out"
say "built $out ($(du -sm "$out" | cut -f 1) MiB, kernel $release) in $(($(date +%s) - started)) s"
