#!/bin/sh
# Runs the example Pod: nginx, and a sidecar that fetches its page from localhost. The host fetches the page as well,
# from the Pod's own address. Ctrl-C ends the Pod.
#
# Usage: run.sh MICROKUBE
set -eu
microkube=$1
here=$(cd "$(dirname "$0")" && pwd)
images=$here/../build/images

# Where Pods run: on this machine, or in the emulated host.
needed=0
reason=$("$microkube" machine needed) || needed=$?
case $needed in
    0)
        echo "run: in the emulated host (slow): $reason"
        on_host="$microkube machine exec --"
        $on_host true
        ;;
    1)
        echo "run: on this machine: $reason"
        on_host=
        ;;
    *) exit "$needed" ;;
esac
for image in nginx debian-tools; do
    $on_host "$microkube" image ls | grep -q "docker.io/library/$image " ||
        $on_host "$microkube" image load --name "$image:latest" "$images/$image"
done

# The host's view, once nginx answers. The address is the one that the Pod has leased.
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
            sleep 0.2  # the host gets no event when a server in a Pod starts listening; one minute at most
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
