#!/bin/sh
# Builds the packages from the results of `make build`:
#
#   OUT_DIR/microkube_VERSION_amd64.deb                  programs, guest kernel and initramfs, service, manual pages, completions, documents
#   OUT_DIR/microkube-emulated-host_VERSION_amd64.deb    kernel and initramfs of the emulated host
#   OUT_DIR/microkube-VERSION-x86_64.tar.gz              both, for other distributions, with install.sh and uninstall.sh
#
# Usage: build.sh MICROKUBE STATIC_MICROKUBE [OUT_DIR]      (default OUT_DIR: build/packages in the source tree)
#
# MICROKUBE is the program of the .deb; microkube-vmm and microkube-file-server are beside it. STATIC_MICROKUBE is the program of the archive. version.sh describes the version; the commit of the release 0.1.0 has the tag v0.1.0.
# The same files give the same packages: every time in them is SOURCE_DATE_EPOCH, by default the time of the last commit. Older packages in
# OUT_DIR are deleted.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
tree=$(dirname "$here")
say() { printf 'packages: %s\n' "$*"; }
die() { printf 'packages: error: %s\n' "$*" >&2; exit 1; }

[ $# -ge 2 ] && [ $# -le 3 ] || die "usage: build.sh MICROKUBE STATIC_MICROKUBE [OUT_DIR]"
programs=$(cd "$(dirname "$1")" && pwd)
static=$(cd "$(dirname "$2")" && pwd)/microkube
out=${3:-$tree/build/packages}
. "$here/version.sh"
version=$(package_version) || die "$tree/Cargo.toml has no version"
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(in_git log -1 --format=%ct) || SOURCE_DATE_EPOCH=$(stat -c %Y "$tree/CHANGELOG.md")
fi
export SOURCE_DATE_EPOCH

for tool in dpkg-deb dpkg-shlibdeps readelf; do
    command -v "$tool" >/dev/null || die "$tool is missing (run guest-image/install-requirements.sh)"
done
for file in "$programs/microkube" "$programs/microkube-vmm" "$programs/microkube-file-server" "$static" "$tree/build/guest/vmlinux" "$tree/build/guest/vmlinux.config" \
    "$tree/build/guest/initramfs.cpio" "$tree/build/machine/vmlinuz" "$tree/build/machine/initramfs.cpio" "$tree/build/machine/modules"; do
    [ -e "$file" ] || die "$file does not exist (run \`make build\`)"
done
if readelf -lW "$static" | grep -qE '\b(INTERP|NEEDED)\b'; then die "$static is not linked statically (run \`make static-program\`)"; fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# The files that both kinds of packages share, below their prefix: microkube in $work/prefix, the emulated host in $work/machine.
prefix=$work/prefix
doc=$prefix/share/doc/microkube
man=$prefix/share/man/man1
mkdir -p "$prefix/bin" "$prefix/lib/microkube/guest" "$prefix/lib/systemd/system" "$man" "$doc/docs" "$doc/examples"
install -m 755 "$programs/microkube" "$programs/microkube-vmm" "$programs/microkube-file-server" "$prefix/bin/"
install -m 644 "$tree/build/guest/vmlinux" "$tree/build/guest/initramfs.cpio" "$prefix/lib/microkube/guest/"
"$here/expand.sh" "$here/end-processes.sh" >"$prefix/lib/microkube/end-processes"
chmod 755 "$prefix/lib/microkube/end-processes"
install -m 644 "$here/microkube-recover.service" "$prefix/lib/systemd/system/"

"$programs/microkube" man "$man"
for program in microkube-vmm microkube-file-server; do sed "s/@VERSION@/$version/" "$here/$program.1" >"$man/$program.1"; done
completions=$prefix/share/bash-completion/completions
fish_completions=$prefix/share/fish/vendor_completions.d
zsh_completions=$prefix/share/zsh/site-functions
mkdir -p "$completions" "$fish_completions" "$zsh_completions"
"$programs/microkube" completion bash >"$completions/microkube"
"$programs/microkube" completion fish >"$fish_completions/microkube.fish"
"$programs/microkube" completion zsh >"$zsh_completions/_microkube"

install -m 644 "$tree/README.md" "$doc/"
for page in usage configuration images kinds pod-fields pod-life ci; do install -m 644 "$tree/docs/$page.md" "$doc/docs/"; done
for example in "$tree"/examples/*.y*ml; do install -m 644 "$example" "$doc/examples/"; done
# Links to documents that are not installed.
revision=$(in_git rev-parse HEAD) || revision=v$(printf '%s' "$version" | sed 's/~/-/')
find "$doc" -name '*.md' | while read -r document; do
    directory=$(dirname "$document")
    grep -o '](\([^):]*\))' "$document" | sed 's/^](//; s/)$//; s/#.*//' | sort -u | while read -r target; do
        [ -n "$target" ] && [ ! -e "$directory/$target" ] || continue
        path=$(realpath -m --relative-to="$doc" "$directory/$target")
        [ -e "$tree/$path" ] || die "$document links to $target, which does not exist"
        sed -i "s|]($target\([#)]\)|](https://github.com/microkube/microkube/blob/$revision/$path\1|g" "$document"
    done
done
cp "$tree/CHANGELOG.md" "$doc/changelog"
cp "$tree/build/guest/vmlinux.config" "$doc/guest-kernel.config"
"$here/third-party-licences.sh" >"$doc/THIRD-PARTY-LICENCES"
guest_kernel=$(grep -a -o -m 1 'Linux version [0-9][^ ]*' "$tree/build/guest/vmlinux" | head -n 1)
kernel_source=$(dpkg-query -W -f '${Version}' linux-source-6.12 2>/dev/null) || die "the package linux-source-6.12 is not installed (run guest-image/install-requirements.sh)"
# As in guest-image/build-kernel.sh: proves that the kernel was built from this version.
key=$( { printf '%s\n' "$kernel_source"; gcc --version | head -n 1; cat "$tree/guest-image/kernel.config" "$tree/guest-image/build-kernel.sh"; } | sha256sum | cut -d ' ' -f 1)
[ "$(cat "$tree/build/guest/vmlinux.key")" = "$key" ] || die "build/guest/vmlinux was not built from linux-source-6.12 $kernel_source, which is installed (run \`make kernel\`)"
kernel_source=$(dpkg-query -W -f '${source:Version}' linux-source-6.12)
glibc_source=$(dpkg-query -W -f '${source:Version}' libc6-dev)
toolchain=$(rustc --print sysroot)
# musl's own version string, in what the agent is linked with.
musl=$(strings "$toolchain/lib/rustlib/x86_64-unknown-linux-musl/lib/self-contained/libc.a" | grep -xE '[0-9]+\.[0-9]+\.[0-9]+') ||
    die "the musl of Rust's toolchain $toolchain does not name its version"
rust=$(rustc --version | cut -d ' ' -f 2)
musl_text=$(dpkg-query -W -f '${source:Version}' musl-tools)
# in_url VERSION
in_url() { printf '%s' "$1" | sed 's/:/%3A/g; s/+/%2B/g'; }
sed -e "s|@GUEST_KERNEL@|$guest_kernel|" -e "s|@REVISION@|$revision|" \
    -e "s|@MUSL@|$musl|" -e "s|@RUST@|$rust|" -e "s|@MUSL_TEXT@|$musl_text|" \
    -e "s|@KERNEL_SOURCE@|$kernel_source|" -e "s|@KERNEL_URL@|$(in_url "$kernel_source")|" \
    -e "s|@GLIBC_SOURCE@|$glibc_source|" -e "s|@GLIBC_URL@|$(in_url "$glibc_source")|" "$here/copyright" >"$doc/copyright"
mkdir "$doc/licences"
cp /usr/share/doc/libc6-dev/copyright "$doc/licences/glibc"
cp /usr/share/doc/musl-tools/copyright "$doc/licences/musl"
gzip -9n "$man"/*.1 "$doc/changelog" "$doc/guest-kernel.config" "$doc/THIRD-PARTY-LICENCES"

machine=$work/machine
mkdir -p "$machine/lib/microkube/machine" "$machine/share/doc/microkube-emulated-host"
cp -R "$tree/build/machine/vmlinuz" "$tree/build/machine/initramfs.cpio" "$tree/build/machine/modules" "$machine/lib/microkube/machine/"
machine_kernel=$(grep -a -o -m 1 '6\.[0-9][^ ]* ([^)]*) #1 .* Debian [0-9][^ ]*' "$tree/build/machine/vmlinuz" | head -n 1)
machine_kernel_source=${machine_kernel##* Debian }
machine_kernel=${machine_kernel%% *}
busybox=$(grep -a -o -m 1 'BusyBox v[0-9.]* (Debian [^)]*)' "$tree/build/machine/initramfs.cpio" | head -n 1)
# +b1: Debian has built the same source again.
busybox_version=$(printf '%s' "$busybox" | sed 's/.*(Debian \(.*\))/\1/')
busybox_source=${busybox_version%+b[0-9]*}
[ -n "$guest_kernel" ] && [ -n "$machine_kernel" ] && [ -n "$busybox" ] || die "a kernel or busybox does not name its version"
[ "$busybox_version" = "$(dpkg-query -W -f '${Version}' busybox-static)" ] ||
    die "busybox in build/machine is not that of the package busybox-static which is installed (run \`make machine\`)"
busybox_glibc=$(dpkg-query -W -f '${Built-Using}, ${Static-Built-Using}' busybox-static | sed -n 's/.*\<glibc (= \([^)]*\)).*/\1/p')
[ -n "$busybox_glibc" ] || die "the package busybox-static does not name the version of glibc that it is linked with"
sed -e "s|@MACHINE_KERNEL@|$machine_kernel|" -e "s|@MACHINE_KERNEL_SOURCE@|$machine_kernel_source|" \
    -e "s|@MACHINE_KERNEL_URL@|$(in_url "$machine_kernel_source")|" -e "s|@BUSYBOX@|$busybox|" \
    -e "s|@BUSYBOX_SOURCE@|$busybox_source|" -e "s|@BUSYBOX_URL@|$(in_url "$busybox_source")|" \
    -e "s|@GLIBC_SOURCE@|$busybox_glibc|" -e "s|@GLIBC_URL@|$(in_url "$busybox_glibc")|" -e "s|@REVISION@|$revision|" \
    "$here/copyright.emulated-host" >"$machine/share/doc/microkube-emulated-host/copyright"

for directory in "$prefix" "$machine"; do
    # The modes must not depend on the umask of the build.
    chmod -R u=rwX,go=rX "$directory"
done

# settle DIRECTORY: gives everything in it the same time.
settle() { find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; }

# deb NAME: packs $work/NAME, which has the package's files and, in DEBIAN, its scripts.
deb() {
    root=$work/$1
    size=$(find "$root/usr" -printf '%y %s\n' | awk '{ kib += $1 == "f" ? int(($2 + 1023) / 1024) : 1 } END { print kib }')
    sed -e "s/@VERSION@/$version/g" -e "s/@SIZE@/$size/" -e "s/@SHLIBS@/$depends/" -e "s/@BUILT_USING@/$built_using/" \
        "$here/debian/$1.control" >"$root/DEBIAN/control"
    for script in postinst prerm postrm; do
        [ -f "$here/debian/$1.$script" ] || continue
        "$here/expand.sh" "$here/debian/$1.$script" >"$root/DEBIAN/$script"
        chmod 755 "$root/DEBIAN/$script"
    done
    (cd "$root" && find usr -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    settle "$root"
    # With more threads, the bytes could differ.
    dpkg-deb --root-owner-group --threads-max=1 -Zxz --build "$root" "$out/$1_${version}_amd64.deb" >/dev/null
    for older in "$out/$1"_*_amd64.deb; do [ "$older" = "$out/$1_${version}_amd64.deb" ] || rm -f "$older"; done
    say "built $out/$1_${version}_amd64.deb ($(du -m "$out/$1_${version}_amd64.deb" | cut -f 1) MiB)"
}

mkdir -p "$work/shlibs/debian/microkube/DEBIAN" "$work/shlibs/debian/microkube/usr/bin"
cp "$programs/microkube" "$work/shlibs/debian/microkube/usr/bin/"
printf 'Source: microkube\n\nPackage: microkube\nArchitecture: amd64\n' >"$work/shlibs/debian/control"
depends=$(cd "$work/shlibs" && dpkg-shlibdeps -O debian/microkube/usr/bin/microkube | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || die "dpkg-shlibdeps finds no dependencies of $programs/microkube"
# The packages of what is linked statically or built from Debian's source.
built_using=$(dpkg-query -W -f '${source:Package} (= ${source:Version}), ' libc6-dev linux-source-6.12 | sed 's/, $//')

mkdir -p "$work/microkube/DEBIAN" "$work/microkube-emulated-host/DEBIAN"
cp -R "$prefix" "$work/microkube/usr"
# Where Debian's zsh looks.
mv "$work/microkube/usr/share/zsh/site-functions" "$work/microkube/usr/share/zsh/vendor-completions"
deb microkube
cp -R "$machine" "$work/microkube-emulated-host/usr"
built_using="busybox (= $busybox_source), glibc (= $busybox_glibc), linux-6.12 (= $machine_kernel_source)"
deb microkube-emulated-host

name=microkube-$version-x86_64
cp -R "$prefix" "$work/$name"
install -m 755 "$static" "$work/$name/bin/microkube"
cp -R "$machine/." "$work/$name/"
cp "$tree/LICENSE" "$work/$name/"
sed 's|](\([^):#][^):]*\))|](share/doc/microkube/\1)|g' "$doc/README.md" >"$work/$name/README.md"
# Debian systems already have these.
for licence in Apache-2.0 GPL-2 LGPL-2.1; do cp "/usr/share/common-licenses/$licence" "$work/$name/share/doc/microkube/licences/"; done
cp "$here/install.sh" "$work/$name/install.sh"
"$here/expand.sh" "$here/uninstall.sh" >"$work/$name/uninstall.sh"
chmod -R u=rwX,go=rX "$work/$name"
chmod 755 "$work/$name/install.sh" "$work/$name/uninstall.sh"
settle "$work/$name"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --format=gnu -cf - "$name" | gzip -9n >"$work/$name.tar.gz"
mv "$work/$name.tar.gz" "$out/$name.tar.gz"
for older in "$out"/microkube-*-x86_64.tar.gz; do [ "$older" = "$out/$name.tar.gz" ] || rm -f "$older"; done
say "built $out/$name.tar.gz ($(du -m "$out/$name.tar.gz" | cut -f 1) MiB)"
