//! Features of the guest kernel for containers: mitigations of CPU vulnerabilities, and networks that containers build
//! themselves.

use microkube_tests::manifest::{Container, Pod};

use crate::host::{alone, host, image_layout, shell_pod};

/// Mitigating these costs a third of the boot time (`guest-image/kernel.config`); the last one is Intel's.
const NOT_MITIGATED: [&str; 3] = ["retbleed", "spec_rstack_overflow", "indirect_target_selection"];

#[test]
fn the_guest_kernel_mitigates_every_cpu_vulnerability_it_can() {
    let _alone = alone();
    let script = "cd /sys/devices/system/cpu/vulnerabilities; for flaw in *; do echo \"$flaw: $(cat $flaw)\"; done; \
        echo flags: $(grep -m 1 -E '^flags' /proc/cpuinfo | cut -d: -f2)";
    let text = host().run(shell_pod("vulnerabilities", script)).success();
    let flags = text
        .lines()
        .find_map(|line| line.strip_prefix("flags: "))
        .expect(&text)
        .to_owned();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let state = |flaw: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(flaw)?.strip_prefix(": "))
            .unwrap_or_else(|| panic!("the kernel says nothing about {flaw}: {text}"))
    };
    for flaw in ["spectre_v1", "spectre_v2"] {
        assert!(state(flaw).starts_with("Mitigation: "), "{flaw}: {text}");
    }
    let vulnerable: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        // The word also occurs inside states, as in "Mitigation: …; BHI: Vulnerable".
        .filter(|(flaw, state)| *flaw != "flags" && state.contains("Vulnerable"))
        .map(|(flaw, _)| flaw)
        .filter(|flaw| !NOT_MITIGATED.contains(flaw))
        // Without the processor's support the kernel cannot mitigate this one.
        .filter(|flaw| *flaw != "spec_store_bypass" || has("ssbd"))
        .collect();
    assert_eq!(vulnerable, [""; 0], "{text}");
}

/// Commands of network tools, one per line; each must succeed. Lines that begin with `$` are shell commands.
const NETWORK_COMMANDS: &str = r#"
ip rule add from 10.9.9.9 table 2022
ip tuntap add mode tun dev tun9
ip link add v1 type veth peer name v2
ip link add br0 type bridge vlan_filtering 1
ip link set br0 up
ip addr add 10.9.0.1/24 dev br0
ip link add dummy0 type dummy
ip link set dummy0 up
ip link add link dummy0 name dummy0.5 type vlan id 5
ip link add mv0 link dummy0 type macvlan mode bridge
ip link add dummy1 type dummy
ip link add ipvl0 link dummy1 type ipvlan
ip link add vx0 type vxlan id 42 dstport 4789 dev dummy0
ip link add ifb0 type ifb
sysctl -w net.ipv4.ip_forward=1
sysctl -w net.bridge.bridge-nf-call-iptables=1
iptables-nft -t nat -N DOCKER
iptables-nft -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables-nft -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables-nft -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment x -j ACCEPT
iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT
iptables-nft -t nat -A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN
iptables-nft -t nat -A OUTPUT -p tcp --dport 15001 -j REDIRECT --to-ports 15001
iptables-nft -t mangle -A PREROUTING -p tcp -m socket --transparent -j MARK --set-mark 1
iptables-nft -t mangle -A PREROUTING -p tcp --dport 15002 -j TPROXY --on-port 15002 --tproxy-mark 1/1
iptables-nft -t nat -N KUBE-MARK-MASQ
iptables-nft -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
iptables-nft -t nat -A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
iptables-nft -t nat -A POSTROUTING -j MASQUERADE --random-fully
iptables-nft -t nat -N KUBE-SVC
iptables-nft -t nat -A KUBE-SVC -m statistic --mode random --probability 0.5 -j RETURN
iptables-nft -t nat -A KUBE-SVC -m recent --name SEP --rcheck --seconds 10800 --reap -j RETURN
iptables-nft -t nat -A KUBE-SVC -p tcp -m recent --name SEP --set -j DNAT --to-destination 10.0.0.1:80
iptables-nft -A INPUT -m conntrack --ctstate INVALID -j DROP
iptables-nft -A INPUT -p tcp --dport 23 -j REJECT --reject-with tcp-reset
iptables-nft -A INPUT -m physdev --physdev-is-bridged -j ACCEPT
iptables-nft -A INPUT -m limit --limit 5/min -j LOG --log-prefix x
iptables-nft -A INPUT -p tcp -m multiport --dports 80,443 -m connlimit --connlimit-above 100 -j DROP
iptables-nft -A INPUT -p udp -m hashlimit --hashlimit-name h --hashlimit-above 10/sec -j DROP
iptables-nft -A INPUT -m iprange --src-range 10.1.0.1-10.1.0.9 -m length --length 0:1500 -m pkttype --pkt-type unicast -j ACCEPT
iptables-nft -A INPUT -m mac --mac-source 02:00:00:00:00:01 -m state --state NEW -m string --algo bm --string x -j ACCEPT
iptables-nft -t raw -A PREROUTING -m rpfilter --invert -j DROP
iptables-nft -t raw -A PREROUTING -p udp --dport 53 -j CT --notrack
iptables-nft -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
iptables-nft -t mangle -A POSTROUTING -p udp -j CHECKSUM --checksum-fill
iptables-nft -t mangle -A PREROUTING -j CONNMARK --restore-mark
ip6tables-nft -A INPUT -p tcp --dport 23 -j REJECT
ip6tables-nft -t nat -A POSTROUTING -j MASQUERADE
nft add table inet t
nft add chain inet t pre { type nat hook prerouting priority -100 ; }
nft add chain inet t sometimes
nft add rule inet t pre fib daddr type local tcp dport 8081 redirect to :80
nft add map inet t services { type ipv4_addr . inet_proto . inet_service : verdict ; }
nft add rule inet t pre ip daddr . meta l4proto . th dport vmap @services
nft add rule inet t sometimes numgen random mod 2 vmap { 0 : accept , 1 : drop }
nft add rule inet t sometimes ct count over 10 log prefix "x" reject
nft add rule inet t sometimes jhash ip saddr mod 4 1 limit rate 5/second quota over 1 mbytes drop
nft add table bridge b
nft add table netdev n
tc qdisc add dev dummy0 root tbf rate 1mbit burst 32kbit latency 400ms
tc qdisc add dev br0 ingress
tc filter add dev br0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0
conntrack -L
"#;

/// A service address for a container in a CNI network, as kube-proxy and CNI plugins set it up, and a request through
/// it.
const SERVICE: &str = r#"
set -e
nft flush ruleset
mkdir -p /run/netns
ip netns add web; ip netns add client
plugin() { CNI_COMMAND=ADD CNI_CONTAINERID=$1 CNI_NETNS=/run/netns/$1 CNI_IFNAME=$2 CNI_PATH=/usr/lib/cni /usr/lib/cni/$3 >/dev/null; }
for name in web client; do
    echo '{"cniVersion":"1.0.0","name":"net","type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.44.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}' | plugin $name eth0 bridge
done
echo '{"cniVersion":"1.0.0","name":"mac","type":"macvlan","master":"dummy0","ipam":{"type":"host-local","ranges":[[{"subnet":"10.45.0.0/24"}]]}}' \
    | plugin web net1 macvlan
ip netns exec web sh -c 'mkdir /www; echo answered > /www/index.html; busybox httpd -p 80 -h /www'
address=$(ip -n web -4 -o addr show eth0 | sed 's/.*inet \([0-9.]*\).*/\1/')
nft add table ip proxy
nft add chain ip proxy pre '{ type nat hook prerouting priority -100 ; }'
nft add rule ip proxy pre ip daddr 10.96.0.1 tcp dport 80 dnat to numgen random mod 2 map "{ 0 : $address, 1 : $address }"
ip netns exec client busybox wget -q -O - http://10.96.0.1/
"#;

#[test]
fn a_privileged_pod_sets_up_networks_like_docker_kube_proxy_and_cni_plugins() {
    let _alone = alone();
    let layout = image_layout("network-tools");
    host().succeed([
        "image",
        "load",
        "--name",
        "network-tools:latest",
        layout.to_str().unwrap(),
    ]);
    let each = "set -f; while read -r line; do [ -n \"$line\" ] || continue; out=$($line 2>&1) || echo \"failed: $line: $out\"; done";
    let script = format!("{each} <<'END'\n{NETWORK_COMMANDS}END\nset +f\n(\n{SERVICE})\necho ended with $?");
    let main = Container::new("main", "network-tools:latest")
        .shell(&script)
        .privileged();
    let text = host().run(Pod::named("nested-networks").container(main)).success();
    assert_eq!(text, "answered\nended with 0\n");
}
