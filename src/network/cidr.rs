//! IPv4 address ranges: parsing, and the arithmetic for address allocation and firewall rules.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Environment variable that overrides the Pod network.
pub const POD_CIDR_VARIABLE: &str = "MICROKUBE_POD_CIDR";

/// An IPv4 network in CIDR notation. The host bits of `network` are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Cidr {
    network: Ipv4Addr,
    prefix_length: u8,
}

/// Why a string is not a valid Pod network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It does not have the form `a.b.c.d/n`.
    #[error("\"{0}\" is not an IPv4 network like 10.88.0.0/16")]
    Syntax(String),
    /// Bits beyond the prefix are set.
    #[error("\"{0}\" has bits set beyond its prefix length; the network is {1}")]
    HostBits(String, Ipv4Cidr),
    /// The network has no room for a gateway and one Pod, or its addresses are not allowed for Pods.
    #[error("\"{0}\" cannot be a Pod network: it needs a prefix length of 8 to 30 and unicast addresses")]
    Unusable(String),
}

impl Ipv4Cidr {
    /// The network address, which is the first of the range.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Length of the common prefix, in bits.
    pub fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// The netmask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(mask_bits(self.prefix_length))
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask_bits(self.prefix_length) == self.network.to_bits()
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other_address: Ipv4Addr, other_prefix_length: u8) -> bool {
        let mask = mask_bits(self.prefix_length.min(other_prefix_length));
        self.network.to_bits() & mask == other_address.to_bits() & mask
    }

    /// The first host address: the address of the bridge, which is the Pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network.to_bits().saturating_add(1))
    }

    /// How many addresses are available to Pods: all but the network, gateway and broadcast addresses.
    pub fn pod_address_count(&self) -> u32 {
        (!mask_bits(self.prefix_length)).saturating_sub(2)
    }

    /// The Pod address with this index, counted from 0; `None` beyond [`Self::pod_address_count`].
    pub fn pod_address(&self, index: u32) -> Option<Ipv4Addr> {
        if index >= self.pod_address_count() {
            return None;
        }
        self.network
            .to_bits()
            .checked_add(2)?
            .checked_add(index)
            .map(Ipv4Addr::from)
    }

    /// The inverse of [`Self::pod_address`].
    pub fn pod_index(&self, address: Ipv4Addr) -> Option<u32> {
        let index = address.to_bits().checked_sub(self.network.to_bits())?.checked_sub(2)?;
        (index < self.pod_address_count()).then_some(index)
    }
}

fn mask_bits(prefix_length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix_length.min(32))).unwrap_or(0)
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_length)
    }
}

impl FromStr for Ipv4Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let syntax = || CidrError::Syntax(text.to_owned());
        let (address, prefix_length) = text.split_once('/').ok_or_else(syntax)?;
        let address: Ipv4Addr = address.parse().map_err(|_| syntax())?;
        let prefix_length: u8 = prefix_length.parse().map_err(|_| syntax())?;
        let unusable = address.is_loopback()
            || address.is_multicast()
            || address.is_unspecified()
            || address.is_link_local()
            || address.octets()[0] >= 224;
        if !(8..=30).contains(&prefix_length) || unusable {
            return Err(CidrError::Unusable(text.to_owned()));
        }
        let network = Ipv4Addr::from(address.to_bits() & mask_bits(prefix_length));
        let cidr = Self { network, prefix_length };
        if network != address {
            return Err(CidrError::HostBits(text.to_owned(), cidr));
        }
        Ok(cidr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_a_network_into_gateway_and_pod_addresses() {
        let cidr: Ipv4Cidr = "10.88.0.0/16".parse().unwrap();
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 88, 0, 1));
        assert_eq!(cidr.mask(), Ipv4Addr::new(255, 255, 0, 0));
        assert_eq!(cidr.pod_address_count(), 65533);
        assert_eq!(cidr.pod_address(0), Some(Ipv4Addr::new(10, 88, 0, 2)));
        assert_eq!(cidr.pod_address(65532), Some(Ipv4Addr::new(10, 88, 255, 254)));
        assert_eq!(cidr.pod_address(65533), None);
        assert_eq!(cidr.pod_index(Ipv4Addr::new(10, 88, 255, 254)), Some(65532));
        for outside in [
            [10, 88, 0, 1],
            [10, 88, 0, 0],
            [10, 88, 255, 255],
            [10, 87, 0, 9],
            [10, 89, 0, 2],
        ] {
            assert_eq!(cidr.pod_index(Ipv4Addr::from(outside)), None);
        }
    }

    #[test]
    fn the_smallest_network_has_one_pod_address() {
        let cidr: Ipv4Cidr = "192.168.7.4/30".parse().unwrap();
        assert_eq!(cidr.pod_address_count(), 1);
        assert_eq!(cidr.pod_address(0), Some(Ipv4Addr::new(192, 168, 7, 6)));
    }

    #[test]
    fn refuses_what_cannot_be_a_pod_network() {
        for text in [
            "",
            "10.88.0.0",
            "10.88.0/16",
            "10.88.0.0/x",
            "10.88.0.0/-1",
            "10.88.0.0/16/1",
            "fd00::/64",
        ] {
            assert!(matches!(text.parse::<Ipv4Cidr>(), Err(CidrError::Syntax(_))), "{text}");
        }
        for text in [
            "10.0.0.0/31",
            "0.0.0.0/0",
            "10.0.0.0/33",
            "127.0.0.0/8",
            "224.0.0.0/24",
            "255.0.0.0/8",
        ] {
            assert!(
                matches!(text.parse::<Ipv4Cidr>(), Err(CidrError::Unusable(_))),
                "{text}"
            );
        }
        let error = "10.88.3.7/16".parse::<Ipv4Cidr>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"10.88.3.7/16\" has bits set beyond its prefix length; the network is 10.88.0.0/16"
        );
    }

    #[test]
    fn overlap_is_decided_by_the_shorter_prefix() {
        let cidr: Ipv4Cidr = "10.88.0.0/16".parse().unwrap();
        assert!(cidr.overlaps(Ipv4Addr::new(10, 88, 4, 7), 24));
        assert!(cidr.overlaps(Ipv4Addr::new(10, 0, 0, 1), 8));
        assert!(!cidr.overlaps(Ipv4Addr::new(10, 89, 0, 1), 16));
        assert!(cidr.overlaps(Ipv4Addr::new(1, 2, 3, 4), 0));
    }
}
