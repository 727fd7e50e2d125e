#!/bin/sh
# Makes the images that examples and tests run, from Debian packages only: OCI layouts in build/images/NAME, tag `latest`.
#
# Usage: build.sh [NAME...]      (default: busybox nginx debian-tools)
#
#   busybox        one layer: busybox with its applets as hard links; /bin/sh
#   nginx          Debian's nginx-light in the foreground on port 80; STOPSIGNAL SIGQUIT
#   debian-tools   Debian's essential packages, curl, CA certificates, procps; /bin/bash
#   network-tools  Debian's essential packages, iproute2, iptables, nftables, conntrack, CNI plugins, busybox
#   storage-tools  Debian's essential packages, git, make, a C compiler, fio
#   database       sqlite3 and busybox
#   small          busybox, under another name
#   configured     busybox with an ENTRYPOINT, CMD, user, directory and variable of its own
#   large          busybox and 500 MB of data in four layers, with checksums in /data/MD5SUMS
#
# An image is kept until its recipe here changes. Needs root (mmdebstrap, file owners) and the packages of
# guest-image/install-requirements.sh.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
images=$here/../../build/images
suite=bookworm
path_env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf 'images: %s\n' "$*"; }
die() { printf 'images: error: %s\n' "$*" >&2; exit 1; }

for tool in umoci mmdebstrap busybox; do
    command -v "$tool" >/dev/null || die "$tool is missing (run guest-image/install-requirements.sh)"
done
mkdir -p "$images"
images=$(cd "$images" && pwd)
exec 9>"$images/.lock"
flock 9
work=$(mktemp -d "$images/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# new_image NAME: an empty image in $work/NAME
new_image() {
    umoci init --layout "$work/$1"
    umoci new --image "$work/$1:latest"
}
# add_layer NAME TAR
add_layer() { umoci raw add-layer --image "$work/$1:latest" "$2"; }
# configure NAME OPTION...
configure() {
    layout=$work/$1
    shift
    umoci config --image "$layout:latest" --architecture amd64 --os linux --config.env "$path_env" "$@"
    umoci gc --layout "$layout"
}

busybox_root() {
    root=$1
    mkdir -p "$root/bin" "$root/etc" "$root/tmp" "$root/root" "$root/home" "$root/var/tmp" "$root/dev" "$root/proc" "$root/sys"
    chmod 1777 "$root/tmp" "$root/var/tmp"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln "$root/bin/busybox" "$root/bin/$applet"
    done
    ln -s bin "$root/sbin"
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n' >"$root/etc/group"
}

build_busybox() {
    busybox_root "$work/root"
    tar -C "$work/root" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$work/layer.tar" .
    new_image busybox
    add_layer busybox "$work/layer.tar"
    configure busybox --config.cmd /bin/sh
}

# debian_root TAR PACKAGES...: a Debian system without documentation
debian_root() {
    tar_file=$1
    include=$2
    for section in man doc locale info; do set -- "$@" "--dpkgopt=path-exclude=/usr/share/$section/*"; done
    shift 2
    mmdebstrap --quiet --variant=essential --include="$include" "$@" \
        --customize-hook='rm -rf "$1"/var/cache/* "$1"/var/lib/apt/lists "$1"/var/log/*.log' \
        --customize-hook='mkdir -p "$1"/var/log/nginx' "$suite" "$tar_file" >"$work/mmdebstrap.log" 2>&1 \
        || { tail -n 20 "$work/mmdebstrap.log" >&2; die "mmdebstrap failed"; }
}

build_nginx() {
    debian_root "$work/layer.tar" nginx-light
    new_image nginx
    add_layer nginx "$work/layer.tar"
    configure nginx --config.cmd nginx --config.cmd -g --config.cmd 'daemon off;' --config.exposedports 80/tcp --config.stopsignal SIGQUIT
}

build_debian_tools() {
    debian_root "$work/layer.tar" curl,ca-certificates,procps
    new_image debian-tools
    add_layer debian-tools "$work/layer.tar"
    configure debian-tools --config.cmd /bin/bash
}

build_network_tools() {
    debian_root "$work/layer.tar" iproute2,iptables,nftables,conntrack,procps,containernetworking-plugins,busybox
    new_image network-tools
    add_layer network-tools "$work/layer.tar"
    configure network-tools --config.cmd /bin/bash
}

build_storage_tools() {
    debian_root "$work/layer.tar" git,make,gcc,libc6-dev,fio,acl,attr
    new_image storage-tools
    add_layer storage-tools "$work/layer.tar"
    configure storage-tools --config.cmd /bin/bash
}

# Small, because the test that cuts the power converts it in its emulated host.
build_database() {
    mmdebstrap --quiet --variant=extract --include=sqlite3,busybox-static \
        --dpkgopt='path-exclude=/usr/share/*' --dpkgopt='path-exclude=/usr/bin/dpkg*' "$suite" "$work/root" \
        >"$work/mmdebstrap.log" 2>&1 || { tail -n 20 "$work/mmdebstrap.log" >&2; die "mmdebstrap failed"; }
    rm -rf "$work"/root/var/cache/* "$work/root/var/lib/apt" "$work/root/var/lib/dpkg"
    chroot "$work/root" /bin/busybox --install -s /bin
    tar -C "$work/root" --sort=name --numeric-owner -cf "$work/layer.tar" .
    new_image database
    add_layer database "$work/layer.tar"
    configure database --config.cmd /bin/sh
}

# Half of the data is random, half of it text: neither compression nor its absence is taken for granted.
build_large() {
    busybox_root "$work/root"
    mkdir "$work/root/data"
    tar -C "$work/root" --sort=name --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" .
    new_image large
    add_layer large "$work/layer.tar"
    : >"$work/sums"
    for number in 1 2 3 4; do
        rm -rf "$work/part"
        mkdir -p "$work/part/data"
        head -c 62500000 /dev/urandom >"$work/part/data/random-$number"
        seq "${number}00000000" "${number}99999999" | head -c 62500000 >"$work/part/data/text-$number"
        (cd "$work/part/data" && md5sum -- *) >>"$work/sums"
        [ "$number" != 4 ] || cp "$work/sums" "$work/part/data/MD5SUMS"
        tar -C "$work/part" --sort=name --owner=0 --group=0 --numeric-owner -cf "$work/layer.tar" data
        add_layer large "$work/layer.tar"
    done
    configure large --config.cmd /bin/sh
}

build_small() {
    build_busybox
    mv "$work/busybox" "$work/small"
}

build_configured() {
    build_busybox
    mv "$work/busybox" "$work/configured"
    mkdir -p "$work/more/srv/data" "$work/more/home/worker" "$work/more/etc"
    cp "$work/root/etc/passwd" "$work/root/etc/group" "$work/more/etc/"
    echo 'worker:x:1234:2345:worker:/home/worker:/bin/sh' >>"$work/more/etc/passwd"
    echo 'workers:x:2345:' >>"$work/more/etc/group"
    printf '#!/bin/sh\necho "$*"; pwd; id; echo "$HOME"; echo "$FROM"\n' >"$work/more/entrypoint"
    chmod 755 "$work/more/entrypoint"
    tar -C "$work/more" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -cf "$work/layer.tar" .
    add_layer configured "$work/layer.tar"
    configure configured --config.entrypoint /entrypoint --clear=config.cmd --config.cmd cmd --config.cmd one \
        --config.cmd two --config.user worker --config.workingdir /srv/data --config.env FROM=from-image
}

[ $# -gt 0 ] || set -- busybox nginx debian-tools
for name in "$@"; do
    case $name in
        busybox | nginx | small | configured | large | database) builder=build_$name ;;
        debian-tools) builder=build_debian_tools ;;
        network-tools) builder=build_network_tools ;;
        storage-tools) builder=build_storage_tools ;;
        *) die "unknown image $name" ;;
    esac
    key=$( { cat "$here/build.sh"; echo "$suite"; } | sha256sum | cut -d ' ' -f 1)
    if [ "$(cat "$images/$name.key" 2>/dev/null)" = "$key" ] && [ -f "$images/$name/index.json" ]; then
        say "$name is up to date"
        continue
    fi
    say "building $name"
    started=$(date +%s)
    rm -rf "$work"/*
    "$builder"
    rm -rf "${images:?}/$name"
    mv "$work/$name" "$images/$name"
    printf '%s\n' "$key" >"$images/$name.key"
    say "built $images/$name ($(du -sm "$images/$name" | cut -f 1) MiB) in $(($(date +%s) - started)) s"
done
