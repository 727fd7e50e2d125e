#!/bin/sh
# Removes microkube as install.sh installed it, and ends its Pods. Records and images stay in /var/lib/microkube, unless they are purged.
#
# Usage: uninstall.sh [--prefix DIR] [--purge]      (default: the prefix of this installation)
set -eu

prefix=/usr/local
purge=
die() { printf 'uninstall: error: %s\n' "$*" >&2; exit 1; }
#include processes.sh
#include remove-state.sh

while [ $# -gt 0 ]; do
    case $1 in
        --prefix)
            [ $# -ge 2 ] || die "--prefix needs a directory"
            prefix=${2%/}
            shift 2
            ;;
        --prefix=*)
            prefix=${1#*=}
            prefix=${prefix%/}
            shift
            ;;
        --purge)
            purge=yes
            shift
            ;;
        *) die "usage: uninstall.sh [--prefix DIR] [--purge]" ;;
    esac
done
[ "$(id -u)" = 0 ] || die "microkube is installed for root: run this as root"
list=$prefix/lib/microkube/installed-files
[ -f "$list" ] || die "microkube is not installed in $prefix: $list does not exist"

# An interrupted installation may have copied neither programs nor end-processes.
bin=$(cd -P "$prefix/bin" 2>/dev/null && pwd -P) || bin=$prefix/bin
others=$(others "$bin")
[ -z "$others" ] || die "another installation is running, and its Pods use the same bridge and directories; end these first: $others"

unit=microkube-recover.service
file_of_unit() { systemctl show --property=FragmentPath --value "$unit"; }
enabled=
if [ -d /run/systemd/system ] && [ "$(file_of_unit)" -ef "$prefix/lib/systemd/system/$unit" ]; then
    ! systemctl --quiet is-enabled "$unit" || enabled=yes
    systemctl --quiet disable --now "$unit" || true
fi
[ ! -x "$prefix/lib/microkube/end-processes" ] || "$prefix/lib/microkube/end-processes" "$prefix/bin"
files=$(cat "$list")
printf '%s\n' "$files" | while read -r file; do rm -f "$prefix/$file"; done
rm -f "$list" "$prefix/lib/microkube/installing"
# microkube's own directories, deepest first.
printf '%s\n' "$files" | while read -r file; do
    while file=${file%/*} && [ "$file" != "${file#*/}" ]; do echo "$file"; done
done | LC_ALL=C sort -ru | while read -r directory; do
    case $directory in *microkube*) rmdir "$prefix/$directory" 2>/dev/null || true ;; esac
done
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    # Restore the service of another installation, which this one had replaced.
    [ -z "$enabled" ] || [ -z "$(file_of_unit)" ] || systemctl --quiet enable "$unit" || true
fi
remove_directory /run/microkube
[ -z "$purge" ] || remove_state
echo "uninstall: removed microkube from $prefix"
