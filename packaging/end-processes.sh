#!/bin/sh
# Ends everything that an installed microkube runs, as a shutdown of the host does: the emulated host, supervisors, VMMs. Then removes the
# bridge and the rules of Pods, unless another installation has Pods. Records and images stay; `microkube recover` restarts the Pods that
# should run.
#
# Usage: end-processes BIN_DIR      (the directory of microkube and microkube-vmm)
set -eu
PATH=$PATH:/usr/sbin:/sbin
#include processes.sh

# /proc has paths without symbolic links.
bin=$(cd -P "$1" && pwd -P)
# Find the VMMs before the supervisors end, because VMMs are recognised by their supervisors.
vmms=$(pids_of "$bin/microkube-vmm")
vmms_left() {
    for pid in $vmms; do
        case $(readlink "/proc/$pid/exe") in "$bin/microkube-vmm" | "$bin/microkube-vmm (deleted)") printf '%s ' "$pid" ;; esac
    done
    pids_of "$bin/microkube-vmm"
}

end_machines "$bin"
# Supervisors first: they would start their VM again.
end "$bin/microkube" pids_of "$bin/microkube"
end "$bin/microkube-vmm" vmms_left

others=$(others "$bin")
if [ -n "$others" ]; then
    echo "microkube: the bridge microkube0 and the nftables rules stay, because another installation is running: $others" >&2
    exit 0
fi
# Without these programs, bridge and rules stay until the host reboots.
if command -v ip >/dev/null; then
    ip link delete microkube0 2>/dev/null || true
fi
if command -v nft >/dev/null; then
    for family in ip netdev; do nft delete table "$family" microkube 2>/dev/null || true; done
fi
