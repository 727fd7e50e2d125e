#!/bin/sh
# The tests of run.sh, which run as root in a bare Debian 12 without systemd.
set -eu

export DEBIAN_FRONTEND=noninteractive
cd /
step() { printf -- '--- %s\n' "$*"; }
fail() {
    printf 'packages: FAILED: %s\n' "$*" >&2
    tail -n 20 /var/lib/microkube/logs/* >&2 2>/dev/null || true
    exit 1
}
equal() { [ "$1" = "$2" ] || fail "expected \"$2\", found \"$1\""; }
absent() { [ ! -e "$1" ] && [ ! -L "$1" ] || fail "$1 is still there"; }

# All dependencies of the packages are in this root. Without package lists, apt downloads nothing.
rm -rf /var/lib/apt/lists/*
# A sync after each file takes long in an emulated host.
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io
apt() {
    apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends "$@" >/tmp/apt.log 2>&1 || { cat /tmp/apt.log >&2; fail "apt-get $*"; }
}

# Run dpkg directly. apt would compute checksums of the packages first, which takes long in an emulated host.
dpkg_install() { dpkg --install "$@" >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log >&2; fail "dpkg --install $*"; }; }

# processes PROGRAM: prints the PIDs of the program's processes, even if its file was replaced
processes() {
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe" || true) in "$bin/$1" | "$bin/$1 (deleted)") printf '%s ' "${process#/proc/}" ;; esac
    done 2>/dev/null
}
bin=/usr/bin
# stand_in PROGRAM ARGUMENT...: starts a shell under this path. Without arguments it would not find the script `supervise`.
stand_in() {
    mkdir -p "$(dirname "$1")"
    cp -L /bin/sh "$1"
    echo 'while :; do sleep 1; done' >/tmp/supervise
    (cd /tmp && exec "$@") &
    stand_in=$!
}
# gone PID: fails if the process still runs
gone() { [ -z "$(readlink "/proc/$1/exe" || true)" ] || fail "process $1 still runs: $(tr '\0' ' ' <"/proc/$1/cmdline")"; }
# links_resolve DIR: fails if a relative link of a document in the directory does not lead to a file
links_resolve() {
    find "$1" -name '*.md' >/tmp/documents
    [ -s /tmp/documents ] || fail "no documents in $1"
    while read -r document; do
        for target in $(grep -o '](\([^):]*\))' "$document" | sed 's/^](//; s/)$//; s/#.*//'); do
            [ -e "$(dirname "$document")/$target" ] || fail "$document links to $target, which does not exist"
        done
    done </tmp/documents
}
# run_pod PROGRAM: runs a Pod in the foreground, from start to end
run_pod() {
    "$1" run hello --image=busybox --image-pull-policy=Never --restart=Never --attach --rm -- echo hello >/tmp/output || fail "run: exit code $?"
    grep -qx hello /tmp/output || fail "run printed: $(cat /tmp/output)"
}
start_pod() {
    microkube apply -f - <<END
{apiVersion: v1, kind: Pod, metadata: {name: $1}, spec: {terminationGracePeriodSeconds: 1, containers: [
  {name: main, image: busybox, imagePullPolicy: Never, command: [sh, -c, "i=0; while :; do echo line \$((i+=1)); sleep 1; done"]}]}}
END
    microkube wait --for=condition=Ready "pod/$1" --timeout=120s
}
restarts() { microkube get pod "$1" -o 'jsonpath={.status.containerStatuses[0].restartCount}'; }
# all_ended: waits until no process of microkube runs; a supervisor ends a moment after its Pod
all_ended() {
    for attempt in $(seq 50); do
        [ -n "$(processes microkube)$(processes microkube-vmm)" ] || return 0
        sleep 0.2
    done
    fail "processes still run: $(processes microkube) $(processes microkube-vmm)"
}
# nothing_left WHAT: fails if a file in this root has microkube in its name, apart from those of the test
nothing_left() {
    left=$(find / -xdev -name '*microkube*' ! -path '/var/tmp/archive/*')
    [ -z "$left" ] || fail "left after $1: $left"
    absent /run/microkube
    all_ended
}

step "install the previous packages"
apt install /packages/previous/*.deb /packages/qemu-system-x86.deb
previous=$(dpkg-query -W -f '${Version}' microkube)
for file in bin/microkube-vmm bin/microkube-file-server lib/microkube/guest/vmlinux lib/microkube/guest/initramfs.cpio lib/microkube/machine/vmlinuz \
    lib/microkube/machine/modules share/bash-completion/completions/microkube share/man/man1/microkube-run.1.gz \
    share/doc/microkube/copyright share/doc/microkube/examples/hello.yaml share/doc/microkube/examples/config.yaml \
    share/doc/microkube/docs/configuration.md share/doc/microkube/licences/musl share/doc/microkube/licences/glibc; do
    [ -s "/usr/$file" ] || fail "/usr/$file is missing"
done
links_resolve /usr/share/doc/microkube
! grep -n '@[A-Z_]*@' /usr/share/doc/microkube*/copyright || fail "a copyright file is incomplete"
for source in microkube/linux-6.12 microkube/glibc microkube-emulated-host/linux-6.12 microkube-emulated-host/busybox microkube-emulated-host/glibc; do
    grep -q "https://snapshot.debian.org/package/${source#*/}/[0-9]" "/usr/share/doc/${source%/*}/copyright" || fail "copyright does not name the version of $source"
done
[ -L /etc/systemd/system/multi-user.target.wants/microkube-recover.service ] || fail "the service is not enabled"
microkube --version
microkube doctor
microkube apply --dry-run=client -f /usr/share/doc/microkube/examples/hello.yaml -f /usr/share/doc/microkube/examples/web.yaml
microkube image load --name busybox:latest /packages/busybox

step "run a Pod with one command"
run_pod microkube

step "upgrade while a Pod runs"
start_pod web
supervisor=$(processes microkube)
vmm=$(processes microkube-vmm)
[ -n "$supervisor" ] && [ -n "$vmm" ] || fail "the Pod has no supervisor or no VMM"
apt-get -qq -s install /packages/new/microkube_*.deb >/tmp/plan 2>&1 || { cat /tmp/plan >&2; fail "apt-get -s install"; }
! grep -q '^Remv' /tmp/plan || fail "an upgrade of microkube alone removes: $(grep '^Remv' /tmp/plan)"
dpkg_install /packages/new/*.deb
version=$(dpkg-query -W -f '${Version}' microkube)
dpkg --compare-versions "$previous" lt "$version" || fail "$version does not follow $previous"
equal "$(processes microkube)" "$supervisor"
equal "$(processes microkube-vmm)" "$vmm"
case $(readlink "/proc/${supervisor% }/exe") in *' (deleted)') ;; *) fail "the program was not replaced" ;; esac
equal "$(microkube exec web -- echo reached)" reached
equal "$(microkube logs web | head -n 1)" 'line 1'
before=$(microkube logs web | tail -n 1)
# Fails if the Pod has stopped writing.
timeout 30 microkube logs -f --tail=2 web | grep -m 1 -vxF -e "$before" -e "line $((${before#line } - 1))"
equal "$(restarts web)" 0
microkube delete pod web
equal "$(microkube get pods -o name)" ''
all_ended
run_pod microkube

step "remove while a Pod runs"
start_pod kept
uid=$(microkube get pod kept -o 'jsonpath={.metadata.uid}')
dpkg -L microkube microkube-emulated-host >/tmp/files
apt remove microkube microkube-emulated-host
while read -r file; do
    # Other directories, such as the one of the unit, also belong to other packages.
    case $file in *microkube*) absent "$file" ;; esac
done </tmp/files
equal "$(processes microkube)$(processes microkube-vmm)" ''
absent /run/microkube
absent /sys/class/net/microkube0
equal "$(nft list tables)" ''
[ -f "/var/lib/microkube/pods/$uid/pod.json" ] || fail "the record of the Pod is gone"

step "install again: the Pod comes back"
dpkg_install /packages/new/*.deb
microkube recover
microkube wait --for=condition=Ready pod/kept --timeout=120s
equal "$(restarts kept)" 1

step "purge"
mkdir -p /var/lib/microkube/machine
# `microkube machine stop` does not find this machine, and does not read the configuration file.
mkdir -p /etc/microkube
echo 'wrong: file' >/etc/microkube/config.yaml
stand_in /tmp/qemu-system-x86_64 supervise -name microkube-machine -kernel /usr/lib/microkube/machine/vmlinuz -pidfile /tmp/none/machine/qemu.pid
apt purge microkube-emulated-host
gone "$stand_in"
absent /var/lib/microkube/machine
rm /etc/microkube/config.yaml
equal "$(microkube get pods -o name)" pod/kept
# Another installation is running, and its Pods need the files that it shares with this one.
stand_in /opt/other/bin/microkube supervise
sh /var/lib/dpkg/info/microkube.postrm purge 2>/tmp/said || true
grep -q "/opt/other/bin/microkube" /tmp/said || fail "postrm does not name the other installation: $(cat /tmp/said)"
equal "$(microkube get pods -o name)" pod/kept
kill "$stand_in"
rm -r /opt/other
# The state may be behind symbolic links and on other mounts.
mv /var/lib/microkube/images /srv/images
ln -s /srv/images /var/lib/microkube/images
mkdir -p /var/lib/microkube/logs /var/lib/microkube/scratch/foreign /srv/foreign
mount -t tmpfs logs /var/lib/microkube/logs
touch /var/lib/microkube/logs/file /srv/foreign/file
# These do not belong to microkube and must stay.
mount --bind /srv/foreign /var/lib/microkube/scratch/foreign
ln -s /srv/foreign /var/lib/microkube/foreign
printf 'paths:\n  state: /srv/elsewhere\n' >/etc/microkube/config.yaml
apt purge microkube
grep -q /srv/elsewhere /tmp/apt.log || fail "purge does not name the state directory that stays"
absent /srv/images
[ -f /srv/foreign/file ] || fail "purge deletes what is mounted deep in the state, or behind any symbolic link"
umount /var/lib/microkube/scratch/foreign
equal "$(find /var/lib/microkube ! -type d)" ''
umount /var/lib/microkube/logs
rm -r /var/lib/microkube
nothing_left purge

step "install and uninstall the archive"
mkdir /var/tmp/archive
tar -xzf /packages/microkube-*-x86_64.tar.gz -C /var/tmp/archive --strip-components=1
links_resolve /var/tmp/archive
for licence in Apache-2.0 GPL-2 LGPL-2.1 musl glibc; do
    [ -s "/var/tmp/archive/share/doc/microkube/licences/$licence" ] || fail "the archive lacks the licence $licence"
done
# The archive's programs do not need libraries of the system.
mkdir /tmp/empty
for program in microkube microkube-vmm; do
    cp "/var/tmp/archive/bin/$program" /tmp/empty/
    chroot /tmp/empty "/$program" --version >/tmp/output || fail "$program does not run without a system around it"
done
rm -r /tmp/empty
for prefix in '/opt/a b' '/opt/a&b' '/opt/a|b' "/opt/a'b" /opt/a%b; do
    ! /var/tmp/archive/install.sh --prefix "$prefix" >/tmp/output 2>&1 || fail "install.sh accepts the prefix $prefix"
    absent "$prefix"
done
# An interrupted installation can be removed.
mkdir /tmp/failing
printf '#!/bin/sh\nexit 1\n' >/tmp/failing/tar
chmod 755 /tmp/failing/tar
! PATH=/tmp/failing:$PATH /var/tmp/archive/install.sh >/tmp/output 2>&1 || fail "install.sh succeeds without tar"
/usr/local/lib/microkube/uninstall.sh
absent /usr/local/lib/microkube
# A directory of the prefix may be a symbolic link.
mkdir -p /usr/local/share
mv /usr/local/share /srv/share
ln -s /srv/share /usr/local/share
! PATH=/tmp/failing:$PATH /var/tmp/archive/install.sh >/tmp/output 2>&1 || fail "install.sh succeeds without tar"
# A repeated installation completes an interrupted one.
printf '#!/bin/sh\necho "$*" >>/tmp/calls\ncase $* in *is-enabled*) exit 1 ;; esac\n' >/tmp/failing/systemctl
chmod 755 /tmp/failing/systemctl
rm /tmp/failing/tar
mkdir -p /run/systemd/system
PATH=/tmp/failing:$PATH /var/tmp/archive/install.sh
grep -w enable /tmp/calls || fail "a repeated first installation does not enable the service"
rm /tmp/calls
rm -r /run/systemd
# The shell remembers the path of the package's program.
hash -r
microkube image load --name busybox:latest /packages/busybox
equal "$(command -v microkube)" /usr/local/bin/microkube
[ -L /usr/local/share ] || fail "install.sh replaced the link /usr/local/share"
links_resolve /usr/local/share/doc/microkube
run_pod microkube
# An upgrade removes files that the new version does not have, and does not enable a service that was disabled.
echo share/zzz >>/usr/local/lib/microkube/installed-files
touch /usr/local/share/zzz
mkdir -p /run/systemd/system
PATH=/tmp/failing:$PATH /var/tmp/archive/install.sh
rm -r /run/systemd
absent /usr/local/share/zzz
grep -q daemon-reload /tmp/calls || fail "install.sh does not call systemctl"
! grep -wE 'enable|start' /tmp/calls || fail "an upgrade enables or starts a disabled service"

step "leave Pods of others alone"
bin=/usr/local/bin
start_pod web
supervisor=$(processes microkube)
# A chroot with the /proc of the host, and another program at the same path.
mount -t tmpfs chroot /mnt
for directory in usr etc proc dev; do
    mkdir "/mnt/$directory"
    mount --rbind "/$directory" "/mnt/$directory"
done
cp -P /bin /sbin /lib /lib64 /mnt/
mount -t tmpfs local /mnt/usr/local
mkdir /mnt/usr/local/bin
cp -L /bin/sh /mnt/usr/local/bin/microkube
cp -L /bin/sh /mnt/usr/local/bin/microkube-vmm
cp /usr/local/lib/microkube/end-processes /mnt/
chroot /mnt /end-processes /usr/local/bin 2>/tmp/said
grep -q "/usr/local/bin/microkube" /tmp/said || fail "end-processes does not name the host's Pods: $(cat /tmp/said)"
umount -R /mnt
equal "$(processes microkube)" "$supervisor"
# Another installation is running.
stand_in /opt/other/bin/microkube supervise
! /usr/local/lib/microkube/uninstall.sh 2>/tmp/said || fail "uninstall.sh does not refuse"
equal "$(processes microkube)" "$supervisor"
/usr/local/lib/microkube/end-processes /usr/local/bin 2>/tmp/said
all_ended
[ -e /sys/class/net/microkube0 ] || fail "end-processes deleted the bridge of another installation"
kill "$stand_in"
rm -r /opt/other
microkube recover
microkube wait --for=condition=Ready pod/web --timeout=120s
# The directory may be a symbolic link.
ln -s /usr/local/bin /tmp/bin
/usr/local/lib/microkube/end-processes /tmp/bin
all_ended
absent /sys/class/net/microkube0

step "uninstall"
/usr/local/lib/microkube/uninstall.sh
[ -d /var/lib/microkube/images ] || fail "uninstall.sh removed the images"
/var/tmp/archive/install.sh
# The target directory of a link may contain files of other programs.
mkdir -p /srv/data/other
touch /srv/data/other/file /var/lib/microkube/service-account.key
mv /var/lib/microkube/* /srv/data/
rmdir /var/lib/microkube
ln -s /srv/data /var/lib/microkube
/usr/local/lib/microkube/uninstall.sh --purge 2>/tmp/said
grep -q /srv/data /tmp/said || fail "uninstall.sh does not name the directory that stays"
equal "$(find /srv/data ! -type d)" /srv/data/other/file
absent /srv/data/images
nothing_left uninstall.sh
