#!/bin/sh
# Prints a script with each line `#include FILE` replaced by the file of that name in the directory of this script. The
# scripts of a package run alone: after a removal, none of its other files exist.
#
# Usage: expand.sh SCRIPT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
awk -v directory="$here" '
    $1 == "#include" {
        file = directory "/" $2
        while ((got = (getline line <file)) > 0) print line
        if (got < 0) { print "expand: error: cannot read " file >"/dev/stderr"; exit 1 }
        next
    }
    { print }
' "$1"
