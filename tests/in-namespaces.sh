#!/bin/sh
# Runs the ignored unit tests, which change the network, as root: each in a separate network namespace.
set -eu
# Build these tests like the other unit tests: another selection would rebuild dependencies with different features.
binary=$(cargo --locked test --workspace --lib --bins --no-run --message-format=json \
    | sed -n 's/.*"kind":\["lib"\].*"name":"microkube".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -n "$binary" ] || { echo "in-namespaces: error: the tests were not built" >&2; exit 1; }
tests=$("$binary" --list --ignored --format=terse | sed -n 's/: test$//p')
[ -n "$tests" ] || { echo "in-namespaces: error: no such test" >&2; exit 1; }
for test in $tests; do
    unshare --net "$binary" --exact --ignored "$test"
done
