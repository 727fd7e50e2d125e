#!/bin/sh
# Tests the list of Rust packages and their licences, with a stand-in for cargo.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
fail() { printf 'licences: FAILED: %s\n' "$*" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
print() { PATH="$work:$PATH" CARGO_HOME=$work FAILING=${1:-} "$here/../../packaging/third-party-licences.sh" >"$work/printed" 2>"$work/said"; }

cat >"$work/cargo" <<'END'
#!/bin/sh
case "$*" in *"--package $FAILING "*) exit 101 ;; esac
case "$*" in
    *"--package microkube "*) printf '%s\n' 'microkube v0.1.0 (/source)|Apache-2.0' 'first v1.0.0|MIT' 'macro v2.0.0 (proc-macro)|MIT' ;;
    *) printf '%s\n' 'first v1.0.0|MIT' 'own v0.1.0 (/source/own)|Apache-2.0' 'second v0.3.1|BSD-3-Clause' ;;
esac
END
chmod 755 "$work/cargo"
for package in first-1.0.0 macro-2.0.0 second-0.3.1; do mkdir -p "$work/registry/src/index/$package"; done
echo 'the MIT licence' | tee "$work/registry/src/index/first-1.0.0/LICENSE" >"$work/registry/src/index/macro-2.0.0/LICENCE-MIT"
echo 'the BSD licence' >"$work/registry/src/index/second-0.3.1/COPYING"

print || fail "$(cat "$work/said")"
for line in 'first-1.0.0 MIT' 'macro-2.0.0 MIT' 'second-0.3.1 BSD-3-Clause' first-1.0.0/LICENSE macro-2.0.0/LICENCE-MIT second-0.3.1/COPYING \
    'the MIT licence' 'the BSD licence'; do
    [ "$(grep -cxF "$line" "$work/printed")" = 1 ] || fail "not once: $line"
done
! grep -e '^microkube' -e '^own' "$work/printed" || fail "the list has microkube's own packages"
# A list without the packages of one program would look complete.
for package in microkube microkube-vmm microkube-file-server microkube-agent; do
    ! print "$package" || fail "succeeds although cargo fails for $package"
done
rm -r "$work/registry/src/index/second-0.3.1"
! print || fail "succeeds without the source of a package"
grep -q second-0.3.1 "$work/said" || fail "does not name the package without source: $(cat "$work/said")"
