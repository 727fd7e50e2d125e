#!/bin/sh
# Runs a program in emulated hosts that are started for it and stopped afterwards.
#
# Usage: in-emulated-hosts.sh MICROKUBE NAME run PROGRAM [ARGUMENT...]    in one host
#        in-emulated-hosts.sh MICROKUBE NAME share PROGRAM                all tests of PROGRAM, in one host per processor
#
# An emulated host has one processor. When tests are shared, each host takes the next ones from a common queue once it
# is free: many at first, because each test process spends a few seconds on preparation, and one at a time at the end,
# so that no host waits for another.
set -eu
microkube=$1
name=$2
mode=$3
program=$4
shift 4

# Use hosts for this run only. A host that is already running may be of another build, and is left alone.
base=$(mktemp -d "/var/tmp/microkube-$name.XXXXXX")
queue=$base/queue
results=$base/results
troubles=$base/troubles
hosts=1
# Later processes of this run reuse what an earlier one has prepared in a host.
export MICROKUBE_TEST_RUN="$base"

# of_host NUMBER COMMAND...: runs the command with that host's directories.
of_host() {
    directory=$base/$1
    shift
    MICROKUBE_STATE_DIR=$directory/state MICROKUBE_RUN_DIR=$directory/run "$@"
}

# run_in NUMBER ARGUMENT...: runs the program in that host, which is started if necessary.
run_in() {
    host=$1
    shift
    of_host "$host" "$microkube" machine exec -- "$program" "$@"
}

close_queue() (
    flock 9
    rm -f "$queue"
) 9>"$base/taking"

clean_up() {
    # No further test may be taken, because it would start a host again.
    close_queue
    number=1
    while [ "$number" -le "$hosts" ]; do
        [ ! -d "$base/$number" ] || of_host "$number" "$microkube" machine stop >/dev/null 2>&1 || true
        number=$((number + 1))
    done
    wait
    rm -rf "$base"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# say: prints its input in one piece, not mixed with the output of the other hosts.
say() (
    flock 8
    cat
) 8>"$base/saying"

# take: removes the next tests from the queue and prints them; fails if there are none.
take() (
    flock 9
    [ -s "$queue" ] || exit 1
    left=$(wc -l <"$queue")
    count=$(((left + 3 * hosts - 1) / (3 * hosts)))
    head -n "$count" "$queue"
    sed -i "1,${count}d" "$queue"
) 9>"$base/taking"

# put_back FILE: appends these tests to the queue.
put_back() (
    flock 9
    [ ! -e "$queue" ] || cat "$1" >>"$queue"
) 9>"$base/taking"

# without_result FILE: prints the tests in the file that have no result yet.
without_result() {
    awk -v results="$results" 'BEGIN { while ((getline line < results) > 0) { split(line, word, " "); done[word[3]] = 1 } }
        !($1 in done)' "$1"
}

# failed_among FILE: whether one of these tests has failed.
failed_among() {
    awk '$1 == "FAILED" || $1 == "DIED" { print $3 }' "$results" | grep -qxFf "$1"
}

# record RESULT SECONDS TEST
record() {
    echo "$1 $2 $3" >>"$results"
    printf '%-7s %4d s  %s\n' "$1" "$2" "$3" | say
}

# follow BATCH LOG: reads the output of a test process, and records results as they arrive. A test may itself have
# printed something between its name and its result.
follow() {
    running=
    begun=$(date +%s)
    while IFS= read -r line || [ -n "$line" ]; do
        printf '%s\n' "$line" >>"$2"
        case $line in
            "test "*" ... "*)
                found=${line#test }
                found=${found%% ... *}
                ! grep -qxF "$found" "$1" || running=$found
                result=${line##* ... }
                ;;
            "running "*" test"*)
                # The time counts from here, because the host may have had to start first.
                begun=$(date +%s)
                continue
                ;;
            *) result=$line ;;
        esac
        [ -n "$running" ] || continue
        case $result in
            ok | FAILED | ignored*) ;;
            *) continue ;;
        esac
        now=$(date +%s)
        record "${result%%,*}" $((now - begun)) "$running"
        begun=$now
        running=
    done
    [ -z "$running" ] || record DIED $(($(date +%s) - begun)) "$running"
}

# serve NUMBER: runs tests in that host until none is left.
serve() {
    number=$1
    batch=$base/batch-$number
    left=$base/left-$number
    log=$base/log-$number
    while take >"$batch"; do
        : >"$log"
        {
            code=0
            run_in "$number" --test-threads=1 --exact $(cat "$batch") 2>>"$log" </dev/null || code=$?
            echo "$code" >"$base/code-$number"
        } | follow "$batch" "$log"
        code=$(cat "$base/code-$number")
        without_result "$batch" >"$left"
        if [ "$code" != 0 ]; then
            { echo "--- output in host $number, exit code $code:"; cat "$log"; echo "---"; } | say
            failed_among "$batch" || echo "$code" >>"$troubles"
        fi
        [ -s "$left" ] || continue
        put_back "$left"
        # 125: the host itself failed. If a process gave no result at all, another attempt would give none either.
        if [ "$code" = 125 ] || cmp -s "$batch" "$left"; then
            echo "$name: gave up on host $number (exit code $code)" | say
            return
        fi
    done
}

# Runs failed tests once more, because the emulated processor sometimes gives a guest wrong flags (docs/testing.md).
# More than three failures have another cause, so they are not repeated.
run_again() {
    awk '$1 == "FAILED" || $1 == "DIED" { print $3 }' "$results" >"$base/failed"
    count=$(wc -l <"$base/failed")
    if [ "$count" = 0 ] || [ "$count" -gt 3 ]; then
        return 0
    fi
    while read -r test; do
        begun=$(date +%s)
        if run_in 1 --test-threads=1 --exact "$test" >"$base/again" 2>&1 </dev/null; then
            awk -v test="$test" '$3 != test' "$results" >"$results.new"
            mv "$results.new" "$results"
            record AGAIN $(($(date +%s) - begun)) "$test"
        else
            { echo "--- output of $test, run again:"; cat "$base/again"; echo "---"; } | say
        fi
    done <"$base/failed"
}

share() {
    hosts=$(nproc)
    # Each host takes as much memory as its tests touch, about 2 GiB.
    room=$(awk '/^MemAvailable:/ { print int($2 / 2097152) }' /proc/meminfo)
    [ "$hosts" -le "$room" ] || hosts=$room
    [ "$hosts" -ge 1 ] || hosts=1
    "$program" --list --format terse | sed -n 's/: test$//p' >"$base/all"
    [ -s "$base/all" ] || { echo "$name: error: no tests found" >&2; return 1; }
    cp "$base/all" "$queue"
    : >"$results"
    : >"$troubles"
    share_begun=$(date +%s)
    number=1
    while [ "$number" -le "$hosts" ]; do
        serve "$number" &
        number=$((number + 1))
    done
    wait
    run_again
    without_result "$base/all" >"$base/not-run"
    echo "$name: slowest tests (the first of each process includes its preparation):"
    sort -k 2,2nr "$results" | head -n 10 | while read -r _ seconds test; do printf '%12d s  %s\n' "$seconds" "$test"; done
    awk -v name="$name" '$1 == "FAILED" || $1 == "DIED" { print name ": " $1 " " $3 }' "$results"
    sed "s/^/$name: NOT RUN /" "$base/not-run"
    awk -v name="$name" '$1 == "AGAIN" { print name ": passed only when it was run again: " $3 }' "$results"
    passed=$(grep -c -e '^ok ' -e '^AGAIN ' "$results" || true)
    ignored=$(grep -c '^ignored ' "$results" || true)
    failed=$(grep -c -e '^FAILED ' -e '^DIED ' "$results" || true)
    echo "$name: $passed passed, $failed failed, $ignored ignored, $(wc -l <"$base/not-run") not run;" \
        "$(($(date +%s) - share_begun)) s in $hosts hosts"
    # A process may fail even if all its tests passed.
    [ ! -s "$troubles" ] || echo "$name: exit codes of processes that failed:" $(cat "$troubles")
    [ "$failed" = 0 ] && [ ! -s "$base/not-run" ] && [ ! -s "$troubles" ]
}

# Converted once here and not in each host, where it takes half a minute.
if [ "$name" = e2e ]; then
    for image in nginx debian-tools; do
        MICROKUBE_STATE_DIR=$base/converted MICROKUBE_RUN_DIR=$base/converted/run "$microkube" image load --on-this-host \
            --name "$image:latest" "$(dirname "$0")/../build/images/$image" >/dev/null
    done
    export MICROKUBE_TEST_IMAGES="$base/converted/images"
fi

case $mode in
    run) run_in 1 "$@" ;;
    share) share ;;
    *) echo "in-emulated-hosts: error: unknown mode $mode: use run or share" >&2; exit 2 ;;
esac
