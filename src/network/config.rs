//! Network configuration of this host.

use std::env;
use std::fs;
use std::path::Path;

use super::cidr::{Ipv4Cidr, POD_CIDR_VARIABLE};
use super::error::NetworkError;

/// The default Pod network.
pub const DEFAULT_POD_CIDR: &str = "10.88.0.0/16";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name of the bridge, at most 15 bytes.
    pub bridge_name: String,
    /// Addresses of the Pods; the first is the bridge's and serves as their gateway.
    pub subnet: Ipv4Cidr,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
}

impl NetworkConfig {
    /// The configuration of this host: bridge `microkube0`, network 10.88.0.0/16 or `MICROKUBE_POD_CIDR`, and the MTU
    /// of the default route.
    pub fn from_env() -> Result<Self, NetworkError> {
        let subnet = match env::var_os(POD_CIDR_VARIABLE).filter(|text| !text.is_empty()) {
            Some(text) => text.to_string_lossy().into_owned(),
            None => DEFAULT_POD_CIDR.to_owned(),
        };
        let subnet = subnet.parse().map_err(NetworkError::Subnet)?;
        Ok(Self {
            bridge_name: "microkube0".to_owned(),
            subnet,
            mtu: default_mtu(),
        })
    }
}

/// MTU of the default route's interface, or 1500 if there is none; at most 1500, because larger frames between Pods
/// have no benefit, and a guest without large receive buffers would lose them.
fn default_mtu() -> u32 {
    const ETHERNET_MTU: u32 = 1500;
    // The minimum that RFC 791 requires of every host.
    const SMALLEST_MTU: u32 = 576;
    let Ok(routes) = fs::read_to_string("/proc/net/route") else {
        return ETHERNET_MTU;
    };
    default_route_interface(&routes)
        .and_then(|name| fs::read_to_string(Path::new("/sys/class/net").join(name).join("mtu")).ok())
        .and_then(|text| text.trim().parse().ok())
        .map_or(ETHERNET_MTU, |mtu: u32| mtu.clamp(SMALLEST_MTU, ETHERNET_MTU))
}

/// The interface of the first default route, from the format of `/proc/net/route`.
fn default_route_interface(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        let mask = fields.nth(5)?;
        (destination == "00000000" && mask == "00000000" && !name.contains('/')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_interface_of_the_default_route() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                      docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                      eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_route_interface(routes), Some("eth0"));
        assert_eq!(default_route_interface("Iface\n"), None);
        assert_eq!(default_route_interface("x\ny"), None);
    }
}
