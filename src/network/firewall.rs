//! microkube's nftables rules: Pods reach other networks through the host's address, and cannot spoof addresses.
//!
//! The rules are in their own tables, named `microkube`. An accept in these tables does not override a drop in another
//! program's table (such as Docker's `FORWARD` policy), so they never allow traffic that the administrator has blocked.

use std::io;
use std::net::Ipv4Addr;

use super::cidr::Ipv4Cidr;
use super::nftables::{
    Batch, Expression, Family, HOOK_NETDEV_INGRESS, HOOK_POSTROUTING, Header, Hook, PRIORITY_SRCNAT, Verdict, comments,
};

const TABLE: &str = "microkube";
const NAT_CHAIN: &str = "postrouting";
const ETHERTYPE_IPV4: [u8; 2] = (libc::ETH_P_IP as u16).to_be_bytes();
const ETHERTYPE_ARP: [u8; 2] = (libc::ETH_P_ARP as u16).to_be_bytes();
/// The first ARP fields: Ethernet, IPv4, and addresses of 6 and 4 bytes.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const INTERFACE_NAME_BYTES: usize = libc::IFNAMSIZ;

/// Translates the source address of packets that leave the Pod network to the host's address. Replaces rules for
/// another network.
pub fn ensure_masquerade(subnet: Ipv4Cidr, bridge_name: &str) -> io::Result<()> {
    let comment = format!("Pods in {subnet} behind {bridge_name}");
    // Replacing a rule costs a grace period in the kernel, about 10 ms.
    if let [Some(existing)] = comments(Family::Ipv4, TABLE, NAT_CHAIN)?.as_slice()
        && *existing == comment
    {
        return Ok(());
    }
    let mut batch = Batch::default();
    let hook = Hook {
        chain_type: "nat",
        number: HOOK_POSTROUTING,
        priority: PRIORITY_SRCNAT,
        device: None,
    };
    batch.add_table(Family::Ipv4, TABLE);
    batch.add_base_chain(Family::Ipv4, TABLE, NAT_CHAIN, hook, Verdict::Accept);
    batch.flush_chain(Family::Ipv4, TABLE, NAT_CHAIN);
    let network = subnet.network().octets();
    let mask = subnet.mask().octets();
    let bridge = padded_interface_name(bridge_name);
    batch.add_rule(
        Family::Ipv4,
        TABLE,
        NAT_CHAIN,
        &comment,
        &[
            // ip saddr SUBNET ip daddr != SUBNET oifname != BRIDGE masquerade
            Expression::LoadPayload {
                header: Header::Network,
                offset: 12,
                length: 4,
            },
            Expression::Mask(&mask),
            Expression::Equal(&network),
            Expression::LoadPayload {
                header: Header::Network,
                offset: 16,
                length: 4,
            },
            Expression::Mask(&mask),
            Expression::NotEqual(&network),
            Expression::LoadOutputInterface,
            Expression::NotEqual(&bridge),
            Expression::Masquerade,
        ],
    );
    batch.commit()
}

/// Accepts from the TAP only IPv4 and ARP with the Pod's own MAC and IP address. The chain is named like the TAP.
pub fn guard_tap(tap_name: &str, mac: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
    let mut batch = Batch::default();
    let hook = Hook {
        chain_type: "filter",
        number: HOOK_NETDEV_INGRESS,
        priority: 0,
        device: Some(tap_name),
    };
    batch.add_table(Family::Netdev, TABLE);
    batch.add_base_chain(Family::Netdev, TABLE, tap_name, hook, Verdict::Drop);
    batch.flush_chain(Family::Netdev, TABLE, tap_name);
    let octets = address.octets();
    let source_mac = [
        Expression::LoadPayload {
            header: Header::Link,
            offset: 6,
            length: 6,
        },
        Expression::Equal(&mac),
    ];
    let [load_mac, own_mac] = source_mac;
    batch.add_rule(
        Family::Netdev,
        TABLE,
        tap_name,
        "the Pod's own IPv4",
        &[
            // ether saddr MAC ip saddr ADDRESS accept
            load_mac.clone(),
            own_mac.clone(),
            Expression::LoadProtocol,
            Expression::Equal(&ETHERTYPE_IPV4),
            Expression::LoadPayload {
                header: Header::Network,
                offset: 12,
                length: 4,
            },
            Expression::Equal(&octets),
            Expression::Verdict(Verdict::Accept),
        ],
    );
    let mut arp_sender = [0; 10];
    arp_sender[..6].copy_from_slice(&mac);
    arp_sender[6..].copy_from_slice(&octets);
    batch.add_rule(
        Family::Netdev,
        TABLE,
        tap_name,
        "the Pod's own ARP",
        &[
            // ether saddr MAC arp htype 1 arp ptype ip … arp saddr ether MAC arp saddr ip ADDRESS accept
            load_mac,
            own_mac,
            Expression::LoadProtocol,
            Expression::Equal(&ETHERTYPE_ARP),
            Expression::LoadPayload {
                header: Header::Network,
                offset: 0,
                length: 6,
            },
            Expression::Equal(&ARP_ETHERNET_IPV4),
            Expression::LoadPayload {
                header: Header::Network,
                offset: 8,
                length: 10,
            },
            Expression::Equal(&arp_sender),
            Expression::Verdict(Verdict::Accept),
        ],
    );
    batch.commit()
}

/// Removes the TAP's chain. Some kernels remove it together with the device; others (6.16, and Debian's 6.12) keep it
/// for a device with the same name. A missing chain is not an error.
pub fn forget_tap(tap_name: &str) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.flush_chain(Family::Netdev, TABLE, tap_name);
    batch.delete_chain(Family::Netdev, TABLE, tap_name);
    match batch.commit() {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) || lacks_netdev(&error) => Ok(()),
        result => result,
    }
}

/// Whether the error means that this kernel lacks nf_tables or the ingress hook for devices.
pub fn lacks_netdev(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT)
    )
}

fn padded_interface_name(name: &str) -> [u8; INTERFACE_NAME_BYTES] {
    let mut padded = [0; INTERFACE_NAME_BYTES];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    padded
}
