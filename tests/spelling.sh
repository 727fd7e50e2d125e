#!/bin/sh
# Checks the spelling of all files that git does not ignore, by the rules in typos.toml. Installs the spell checker below
# build/ (a wheel of 8 MB from PyPI) if it is missing.
#
# Usage: spelling.sh [ARGUMENTS OF typos]      (such as --write-changes, which corrects what has one correction)
set -eu
cd "$(dirname "$0")/.."

version=1.52.0
# The checksum of typos-1.52.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl.
sha256=418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6
installed=build/typos-$version

die() { printf 'spelling: error: %s\n' "$*" >&2; exit 1; }

if [ ! -x "$installed/bin/typos" ]; then
    mkdir -p build
    new=$(mktemp -d build/typos-new.XXXXXX)
    trap 'rm -rf "$new"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    python3 -m venv "$new" || die "cannot create a Python environment (apt-get install python3-venv)"
    printf 'typos==%s --hash=sha256:%s\n' "$version" "$sha256" >"$new/requirements.txt"
    "$new/bin/pip" --quiet --disable-pip-version-check install --only-binary :all: --require-hashes --requirement "$new/requirements.txt" ||
        die "cannot install typos $version from PyPI"
    chmod 755 "$new"
    # This fails if another process was faster.
    mv -T "$new" "$installed" 2>/dev/null || [ -x "$installed/bin/typos" ] || die "cannot create $installed"
    rm -rf "$new"
fi
exec "$installed/bin/typos" "$@"
