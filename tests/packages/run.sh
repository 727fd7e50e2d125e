#!/bin/sh
# Tests the packages in a bare Debian 12 root inside an emulated host that is started for it, even if this machine's KVM
# can run guests.
#
# Usage: run.sh MICROKUBE PACKAGES
#
# MICROKUBE is the program that starts the emulated host, PACKAGES the directory of the packages to test. The upgrade
# starts from the packages in the directory MICROKUBE_PREVIOUS_PACKAGES, or from the same packages with a lower version.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
microkube=$1
packages=$(cd "$2" && pwd)
say() { printf 'packages: %s\n' "$*"; }

# The bare root, which is kept for later runs: Debian's required packages, apt, and the optional programs of
# end-processes.
root=$tree/build/package-test/root.tar
recipe='--variant=minbase --include=iproute2,nftables bookworm'
if [ "$(cat "$root.key" 2>/dev/null)" != "$recipe" ]; then
    say "building a bare Debian 12 root"
    mkdir -p "$(dirname "$root")"
    mmdebstrap --quiet --format=tar $recipe "$root.new" >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; exit 1; }
    mv "$root.new" "$root"
    printf '%s\n' "$recipe" >"$root.key"
fi

base=$(mktemp -d /var/tmp/microkube-packages.XXXXXX)
export MICROKUBE_STATE_DIR="$base/state" MICROKUBE_RUN_DIR="$base/run"
clean_up() {
    "$microkube" machine stop >/dev/null 2>&1 || true
    rm -rf "$base"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

files=$base/files
mkdir -p "$files/new" "$files/previous" "$files/unpacked"
ln "$root" "$files/root.tar" 2>/dev/null || cp "$root" "$files/root.tar"
cp "$packages"/*.deb "$files/new/"
cp "$packages"/*.tar.gz "$files/"
cp -R "$tree/build/images/busybox" "$files/busybox"
cp "$here/in-bare-root.sh" "$files/"
if [ -n "${MICROKUBE_PREVIOUS_PACKAGES:-}" ]; then
    cp "$MICROKUBE_PREVIOUS_PACKAGES"/*.deb "$files/previous/"
else
    for package in "$files"/new/*.deb; do
        unpacked=$files/unpacked/$(basename "$package" .deb)
        dpkg-deb -R "$package" "$unpacked"
        # Lower the version, also in the dependencies between the packages.
        version=$(dpkg-deb -f "$package" Version)
        sed -i "s/\(^Version: \|= \)$version/\1$version~previous/" "$unpacked/DEBIAN/control"
        # Leave out most of the emulated host's modules, because unpacking them takes long in an emulated host.
        rm -rf "$unpacked"/usr/lib/microkube/machine/modules/*/kernel/*/
        dpkg-deb -Zgzip -z1 --root-owner-group --build "$unpacked" "$files/previous/" >/dev/null
    done
fi
rm -rf "$files/unpacked"
# Nothing in the emulated host runs QEMU, so a package without content is enough.
mkdir -p "$files/stand-in/DEBIAN"
printf '%s\n' 'Package: qemu-system-x86' 'Version: 1:7.2' 'Architecture: all' 'Maintainer: none <none@localhost>' 'Description: stand-in' \
    >"$files/stand-in/DEBIAN/control"
dpkg-deb --root-owner-group --build "$files/stand-in" "$files/qemu-system-x86.deb" >/dev/null

say "starting an emulated host"
"$microkube" machine start
# The host's root is in memory and private to one command, so the bare root is on the host's state disk.
"$microkube" machine exec -- unshare --mount --propagation private sh -euc '
    root=/var/lib/microkube/bare-root
    mkdir "$root"
    tar -xf "$1/root.tar" -C "$root"
    mkdir "$root/packages"
    mount --bind "$root" "$root"
    mount --bind "$1" "$root/packages"
    for directory in proc sys dev; do mount --rbind "/$directory" "$root/$directory"; done
    mount -t tmpfs -o mode=755 run "$root/run"
    # microkube recognises an emulated host, where everything takes longer, by this directory.
    mkdir "$root/run/microkube-machine"
    cd "$root"
    pivot_root . .
    umount -l .
    exec chroot . env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh /packages/in-bare-root.sh
' sh "$files"
say "passed"
