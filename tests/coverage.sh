#!/bin/sh
# Measures line coverage of the tests that need no virtual machine: unit tests, tests of the store and of the registry.
# Prints a line per file and the total; build/coverage/lines has every line with its count.
#
# Usage: coverage.sh
#
# Compiles only the workspace's own crates again; the dependencies are shared with the unit tests.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/build/coverage
die() { printf 'coverage: error: %s\n' "$*" >&2; exit 1; }

# The tools read only data written by a compiler with the same LLVM version.
llvm=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
if ! command -v "llvm-cov-$llvm" >/dev/null; then
    apt-get install -y -q "llvm-$llvm" >/dev/null || die "cannot install llvm-$llvm: run \`apt-get install llvm-$llvm\`"
fi

rm -rf "$out"
mkdir -p "$out"
cat >"$out/rustc" <<'END'
#!/bin/sh
exec "$@" -C instrument-coverage
END
chmod +x "$out/rustc"
export RUSTC_WORKSPACE_WRAPPER="$out/rustc"
# Build scripts are instrumented too. A program that a test starts without this variable writes its data to the current
# directory.
export LLVM_PROFILE_FILE="$out/raw/%p-%m.profraw"
trap 'find "$root" -name "default_*.profraw" -not -path "*/target/*" -delete' EXIT

programs=$(cd "$root" && cargo --locked test --workspace --lib --bins --test store --test registry --no-run --message-format=json \
    | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | sort -u)
[ -n "$programs" ] || die "nothing was built"

(cd "$root" && cargo --locked test --workspace --lib --bins --test store --test registry) >"$out/tests.log" 2>&1 \
    || { tail -n 40 "$out/tests.log" >&2; die "tests failed ($out/tests.log)"; }

find "$out/raw" -name '*.profraw' >"$out/raw-files"
"llvm-profdata-$llvm" merge -sparse -f "$out/raw-files" -o "$out/merged.profdata"
rm -r "$out/raw"
set --
for program in $programs; do
    set -- "$@" --object "$program"
done
"llvm-cov-$llvm" report --instr-profile "$out/merged.profdata" --ignore-filename-regex '(/\.cargo/|/rustc/|/target/)' "$@" >"$out/report"
"llvm-cov-$llvm" show --instr-profile "$out/merged.profdata" --ignore-filename-regex '(/\.cargo/|/rustc/|/target/)' "$@" >"$out/lines"
cat "$out/report"
