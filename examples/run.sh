#!/bin/sh
# Runs the example Pod: nginx, and a sidecar that fetches its page from localhost. Fetches the page from the host as well, by the
# Pod's own address. Ctrl-C ends the Pod.
#
# Usage: run.sh MICROKUBE
set -eu
microkube=$1
here=$(cd "$(dirname "$0")" && pwd)
images=$here/../build/images

# Where Pods run: on this machine, or in the emulated host.
if reason=$("$microkube" machine needed); then
    echo "run: in the emulated host (slow): $reason"
    on_host="$microkube machine exec --"
    $on_host true
else
    echo "run: on this machine: $reason"
    on_host=
fi
for image in nginx debian-tools; do
    $on_host "$microkube" image ls | grep -q "docker.io/library/$image " ||
        $on_host "$microkube" image load --name "$image:latest" "$images/$image"
done

# The host's view, as soon as nginx answers: the address is the one that the Pod has leased.
fetch_from_host() {
    $on_host sh -c '
        for attempt in $(seq 300); do
            for lease in ${MICROKUBE_STATE_DIR:-/var/lib/microkube}/network/leases/*.*.*.*; do
                address=${lease##*/}
                if page=$(curl --silent --fail --max-time 5 "http://$address/" 2>/dev/null); then
                    echo "--- fetched from the host by the address of the Pod, $address:"
                    echo "$page" | grep -i "<h1>"
                    echo "--- Ctrl-C ends the Pod"
                    exit
                fi
            done
            sleep 0.2  # nothing tells the host that a server in a Pod listens; a minute at most
        done
        echo "--- nginx did not answer the host" >&2
    '
}
fetch_from_host &
fetcher=$!
trap 'kill $fetcher 2>/dev/null || true' EXIT
trap : INT
status=0
$on_host "$microkube" run "$here/nginx-sidecar.yaml" || status=$?
exit "$status"
