#!/bin/sh
# /init of the emulated host's initramfs: turns a bare kernel into a KVM host, then hands over to microkube as PID 1.
#
# From outside it gets: 9p share `control` (microkube, hostname and token, one file each), 9p share `modules` (its
# /lib/modules), 9p shares host0, host1, ... (the outer machine's root, read-only), disk vda (state), network card eth0
# (10.0.2.15; the outside is 10.0.2.2).
PATH=/bin
fail() {
    echo "microkube machine: $1" >/dev/kmsg
    echo "microkube machine: cannot start: $1"
    poweroff -f
}
share() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288,cache=$3,ro" "$1" "$2" || fail "9p share $1 cannot be mounted"; }

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o mode=755 devtmpfs /dev
echo /bin/modprobe >/proc/sys/kernel/modprobe
while read -r module; do insmod "/boot/$module" || fail "module $module cannot be loaded"; done </boot/order

share control /control loose
share modules /lib/modules loose
# microkube always needs these modules; the kernel loads others on demand. They load in the background, because the
# steps below do not depend on them.
(modprobe -a kvm-amd tun bridge veth loop nf_tables nft_chain_nat nft_masq nf_nat nf_conntrack) &
kvm_loader=$!

mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
mount -t cgroup2 -o nosuid,nodev,noexec,nsdelegate cgroup2 /sys/fs/cgroup
for controller in cpuset cpu io memory hugetlb pids; do echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control; done 2>/dev/null

ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
hostname "$(cat /control/hostname)"

# The files of the outer machine, with writes kept in memory.
share host0 /host loose
mount -t tmpfs -o mode=755 tmpfs /memory
mkdir /memory/upper /memory/work /memory/upper/etc
chmod 755 /memory/upper /memory/upper/etc
printf 'nameserver 10.0.2.3\n' >/memory/upper/etc/resolv.conf
cat /control/hostname >/memory/upper/etc/hostname
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work,xino=off overlay /root || fail "the root cannot be laid over the share"

for dir in proc sys dev run tmp lib/modules var/lib/microkube; do mkdir -p "/root/$dir"; done
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /root/run
mkdir -p /root/run/lock /root/run/microkube-machine
chmod 1777 /root/run/lock
mount -t ext4 -o noatime,discard /dev/vda /root/var/lib/microkube || fail "the state disk cannot be mounted"

# microkube, and the program with which the kernel loads modules, are copied, because their originals may be replaced
# outside at any time.
machine=/root/run/microkube-machine
cp /bin/busybox "$machine/busybox"
ln -s busybox "$machine/modprobe"
echo /run/microkube-machine/modprobe >/proc/sys/kernel/modprobe
cp /control/microkube "$machine/microkube" && chmod 755 "$machine/microkube" || fail "microkube cannot be copied from outside"
(umask 077 && cp /control/token /control/ready-port "$machine/") || fail "the token cannot be read"
printf 'nameserver 10.0.2.3\n' >"$machine/resolv.conf"
sysctl -q -w net.ipv4.ip_forward=1 kernel.panic=-1 fs.inotify.max_user_instances=8192 kernel.printk='3 4 1 3'

wait "$kvm_loader"
[ -c /dev/kvm ] || fail "kvm_amd did not come up"
umount /control
mkdir "$machine/host"
mount -o move /host "$machine/host"
mount -o move /lib/modules /root/lib/modules
mount -o move /proc /root/proc
mount -o move /sys /root/sys
mount -o move /dev /root/dev
exec switch_root /root /run/microkube-machine/microkube machine inside-init
fail "microkube did not start"
