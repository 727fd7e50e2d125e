#!/bin/sh
# Stands for `microkube exec` in the tests of `cp`: runs the command behind "--" on this machine.
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
