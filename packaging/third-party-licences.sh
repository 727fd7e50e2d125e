#!/bin/sh
# Prints the Rust packages that microkube's programs contain, and their licences.
#
# Usage: third-party-licences.sh
#
# Reads the packages' sources where cargo has unpacked them to build the programs.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
registry=${CARGO_HOME:-$HOME/.cargo}/registry/src
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# tree TARGET PACKAGE: a program's packages with their licences
tree() {
    cargo --locked --offline tree --quiet --manifest-path "$here/../Cargo.toml" --package "$2" --target "$1" --edges normal \
        --prefix none --no-dedupe --format '{p}|{l}' >>"$work/all"
}
tree x86_64-unknown-linux-gnu microkube
tree x86_64-unknown-linux-musl microkube
tree x86_64-unknown-linux-gnu microkube-vmm
tree x86_64-unknown-linux-musl microkube-file-server
tree x86_64-unknown-linux-musl microkube-agent
# Name, version and licence of each package that is not microkube's own.
sed -E '/\(\/.*\)/d; s/ \(proc-macro\)//; s/^([^ ]+) v([^|]+)\|/\1-\2|/' "$work/all" | LC_ALL=C sort -u >"$work/packages"
[ -s "$work/packages" ] || { echo "third-party-licences: error: cargo names no packages" >&2; exit 1; }

cat <<END
The programs of microkube contain the Rust packages listed here, and Rust's standard library (MIT OR Apache-2.0). Their sources are at
https://crates.io. The texts of their licences follow, each once, after the names of the files that have it.

END
tr '|' ' ' <"$work/packages"

while IFS='|' read -r package _; do
    source=$(find "$registry" -mindepth 2 -maxdepth 2 -type d -name "$package" | head -n 1)
    [ -n "$source" ] || { echo "third-party-licences: error: the source of $package is not in $registry" >&2; exit 1; }
    # Depth 3: sources of C libraries that a package contains.
    find "$source" -maxdepth 3 -type f \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'copyright*' -o -iname 'notice*' \) ! -name '*.rs' |
        LC_ALL=C sort | while read -r file; do
            printf '%s %s %s\n' "$(sha256sum <"$file" | cut -d ' ' -f 1)" "$package/${file#"$source/"}" "$file"
        done
done <"$work/packages" >"$work/files"

awk '!seen[$1]++ { print $1 }' "$work/files" | while read -r sum; do
    printf '\n\n%s\n' '================================================================================'
    awk -v sum="$sum" '$1 == sum { print $2 }' "$work/files"
    printf '%s\n\n' '--------------------------------------------------------------------------------'
    cat "$(awk -v sum="$sum" '$1 == sum { print $3; exit }' "$work/files")"
done
