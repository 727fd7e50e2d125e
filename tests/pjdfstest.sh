#!/bin/sh
# Compiles pjdfstest, which compares a file system with POSIX, below build/ (a minute of processor time, once).
#
# Usage: pjdfstest.sh
set -eu
cd "$(dirname "$0")/.."

version=0.2.2
installed=$PWD/build/pjdfstest

[ "$(cat "$installed/version" 2>/dev/null)" != "$version" ] || exit 0
echo "pjdfstest: compiling pjdfstest $version"
mkdir -p build
new=$(mktemp -d build/pjdfstest-new.XXXXXX)
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cargo install --quiet --locked --version "=$version" --root "$new" pjdfstest ||
    { echo "pjdfstest: error: cannot install pjdfstest $version from crates.io" >&2; exit 1; }
cat >"$new/config.toml" <<'END'
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.02

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
END
echo "$version" >"$new/version"
chmod 755 "$new"
rm -rf "$installed"
mv -T "$new" "$installed"
