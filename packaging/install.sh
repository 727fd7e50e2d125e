#!/bin/sh
# Installs microkube from this directory, or upgrades it. Running Pods keep running.
#
# Usage: install.sh [--prefix DIR]      (default: /usr/local)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: error: %s\n' "$*" >&2; exit 1; }

while [ $# -gt 0 ]; do
    case $1 in
        --prefix)
            [ $# -ge 2 ] || die "--prefix needs a directory"
            prefix=$2
            shift 2
            ;;
        --prefix=*)
            prefix=${1#*=}
            shift
            ;;
        *) die "usage: install.sh [--prefix DIR]" ;;
    esac
done
case $prefix in
    /) die "the prefix is /: choose a directory such as /usr/local" ;;
    /*) prefix=${prefix%/} ;;
    *) die "the prefix $prefix is not an absolute path" ;;
esac
# The prefix becomes part of scripts and of a systemd unit.
case $prefix in
    *[!abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-]*)
        die "the prefix $prefix has a character other than letters, digits and / . _ + -: choose another directory"
        ;;
esac
[ "$(uname -sm)" = 'Linux x86_64' ] || die "microkube runs on Linux x86-64 only; this is $(uname -sm)"
[ "$(id -u)" = 0 ] || die "microkube runs as root: install it as root"
reason=$("$here/bin/microkube" --version 2>&1 >/dev/null) || die "the program does not run here: $reason"

cd "$here"
list=$prefix/lib/microkube/installed-files
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
{
    find bin lib share ! -type d
    echo lib/microkube/uninstall.sh
} | LC_ALL=C sort >"$work/new"
mkdir -p "$prefix/lib/microkube"
# Exists until the first installation is complete.
installing=$prefix/lib/microkube/installing
[ -f "$list" ] || touch "$installing"
# Until all files are copied, the list has those of both versions, so that uninstall.sh removes what an interrupted installation has copied.
if [ -f "$list" ]; then LC_ALL=C sort -u "$list" "$work/new"; else cat "$work/new"; fi >"$work/both"
install -m 644 "$work/both" "$list"
sed "s|^prefix=.*|prefix='$prefix'|" uninstall.sh >"$work/uninstall.sh"
install -m 755 "$work/uninstall.sh" "$prefix/lib/microkube/uninstall.sh"
# New files, not new content: running programs keep theirs. A directory may be a symbolic link.
tar -cf - bin lib share | tar -xf - -C "$prefix" --no-same-owner --no-overwrite-dir --keep-directory-symlink
unit=$prefix/lib/systemd/system/microkube-recover.service
sed "s|/usr/bin/|$prefix/bin/|" lib/systemd/system/microkube-recover.service >"$work/unit"
install -m 644 "$work/unit" "$unit"
# Files of the previous version that this one does not have.
LC_ALL=C comm -23 "$work/both" "$work/new" | while read -r file; do rm -f "$prefix/$file"; done
install -m 644 "$work/new" "$list"

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # In an upgrade it stays disabled if the administrator has disabled it.
    if [ -f "$installing" ]; then systemctl --quiet enable "$unit" || say "cannot enable $unit"; fi
    if systemctl --quiet is-enabled microkube-recover.service; then
        systemctl reset-failed microkube-recover.service 2>/dev/null || true
        systemctl start microkube-recover.service || say "cannot start microkube-recover.service; see: systemctl status microkube-recover"
    fi
fi
rm -f "$installing"
command -v mke2fs >/dev/null || [ -x /usr/sbin/mke2fs ] || [ -x /sbin/mke2fs ] || say "mke2fs is missing: install e2fsprogs"
say "installed $("$prefix/bin/microkube" --version) in $prefix; next: microkube doctor"
