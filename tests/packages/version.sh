#!/bin/sh
# Tests the versions of packages. Builds nothing.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../packaging/version.sh"
fail() { printf 'version: FAILED: %s\n' "$*" >&2; exit 1; }
equal() { [ "$1" = "$2" ] || fail "expected \"$2\", found \"$1\""; }
before() { dpkg --compare-versions "$1" lt "$2" || fail "$1 is not before $2"; }

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
printf '[workspace]\n\n[workspace.package]\nversion = "1.2.0"\n\n[profile.dev]\n' >"$tree/Cargo.toml"
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
git -C "$tree" init --quiet
# commit TIME: makes a commit whose name depends only on the arguments
commit() {
    GIT_AUTHOR_DATE=$1 GIT_COMMITTER_DATE=$1 git -C "$tree" -c user.name=tester -c user.email=tester@localhost \
        commit --quiet --allow-empty --message "$1"
}

# Earlier versions had only the date.
previous='1.2.0~git20261127.ffffffffffff'
names=
# In the authors' time zones, the order of these times would differ.
for time in '2026-11-27T23:30:00 +0200' '2026-11-27T22:00:01 +0000' '2026-11-27T22:00:02 +0000' '2026-11-27T17:00:03 -0500' \
    '2026-11-27T22:00:10 +0000' '2026-11-27T23:59:59 +0000' '2026-11-27T19:00:00 -0500'; do
    commit "$time"
    version=$(package_version)
    before "$previous" "$version"
    before "$version" 1.2.0
    previous=$version
    names="$names${version##*.}
"
done
case $version in 1.2.0~git20261128000000.????????????) ;; *) fail "unexpected version $version" ;; esac
# Sorted names would prove nothing about the order of the versions.
[ "$names" != "$(printf '%s' "$names" | LC_ALL=C sort)
" ] || fail "the names of the commits are sorted"

git -C "$tree" tag v1.1.0
equal "$(package_version)" "$version"
git -C "$tree" tag v1.2.0
equal "$(package_version)" 1.2.0
sed -i 's/1\.2\.0/1.2.0-rc.1/' "$tree/Cargo.toml"
case $(package_version) in 1.2.0~rc.1~git20261128000000.*) ;; *) fail "unexpected version $(package_version)" ;; esac
before "$(package_version)" 1.2.0~rc.1
git -C "$tree" tag v1.2.0-rc.1
equal "$(package_version)" 1.2.0~rc.1
# A source archive may be unpacked in another repository.
mkdir "$tree/unpacked"
cp "$tree/Cargo.toml" "$tree/unpacked/"
tree=$tree/unpacked
equal "$(package_version)" 1.2.0~rc.1
tree=${tree%/unpacked}
