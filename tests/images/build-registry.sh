#!/bin/sh
# Pushes the test images into the storage of a registry, build/registry, which the end-to-end tests then serve
# read-only, because on a slow host pushing an image takes much longer than pulling it. Also makes an archive of one
# image, for `image load`.
#
# Usage: build-registry.sh NAME...     (images made by build.sh)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$here/../../build" && pwd)
images=$build/images
port=5078
# "archive" stands for the archive made below.
wanted=$(for name in "$@" archive; do echo "$name $(cat "$images/$name.key" 2>/dev/null || true)"; done)
if [ "$(cat "$build/registry.key" 2>/dev/null)" = "$wanted" ]; then
    echo "images: the registry is up to date"
    exit 0
fi
rm -rf "$build/registry" "$build/registry.key"
mkdir -p "$build/registry"
config=$(mktemp)
cat >"$config" <<END
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $build/registry}}
http: {addr: 127.0.0.1:$port}
END
docker-registry serve "$config" >"$build/registry.log" 2>&1 &
registry=$!
trap 'kill $registry 2>/dev/null; rm -f "$config"' EXIT
tries=0
until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/v2/"; do
    # Wait up to ten seconds, because a connection is the only sign that the registry is listening.
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat "$build/registry.log" >&2; echo "images: error: docker-registry does not start" >&2; exit 1; }
    sleep 0.1
done
for name in "$@"; do
    echo "images: pushing $name"
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false \
        "oci:$images/$name:latest" "docker://127.0.0.1:$port/test/$name:latest"
done
rm -f "$images/busybox.oci.tar"
skopeo --insecure-policy copy --quiet "oci:$images/busybox:latest" "oci-archive:$images/busybox.oci.tar:docker.io/test/busybox:latest"
echo "$wanted" >"$build/registry.key"
