//! Configures the guest's network interface as the host decided: name, address, route, MTU.

mod namespace;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use microkube_protocol::messages::NetworkInterface;
use nix::net::if_::if_nameindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::request_field::InvalidRequest;

pub use self::namespace::hand_over;

/// `IFNAMSIZ`, linux/if.h, without the terminating NUL.
const MAX_NAME_BYTES: usize = 15;

/// The sysctls that containerd and Docker set in a Pod's network namespace, because images rely on them: every user may
/// listen on every port and use ping.
const POD_SYSCTLS: [(&str, &str); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
];

/// A checked [`NetworkInterface`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    mac: [u8; 6],
    name: String,
    address: Ipv4Addr,
    prefix_length: u32,
    gateway: Option<Ipv4Addr>,
    mtu: i32,
}

impl Interface {
    /// Checks the host's request.
    pub fn parse(request: &NetworkInterface) -> Result<Self, InvalidRequest> {
        let mac = <[u8; 6]>::try_from(request.mac.as_slice())
            .map_err(|_| InvalidRequest::new("network.mac", "is not 6 bytes long"))?;
        let name_is_valid = (1..=MAX_NAME_BYTES).contains(&request.name.len())
            && request
                .name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && request.name != "."
            && request.name != "..";
        if !name_is_valid {
            return Err(InvalidRequest::new("network.name", "is not the name of an interface"));
        }
        if request.prefix_length > 32 {
            return Err(InvalidRequest::new("network.prefix_length", "exceeds 32"));
        }
        let address =
            address(&request.address).ok_or_else(|| InvalidRequest::new("network.address", "is not 4 bytes long"))?;
        let gateway = match request.gateway.as_slice() {
            [] => None,
            bytes => Some(address_of("network.gateway", bytes)?),
        };
        let mtu = i32::try_from(request.mtu)
            .ok()
            .filter(|mtu| *mtu == 0 || (68..=65_535).contains(mtu))
            .ok_or_else(|| InvalidRequest::new("network.mtu", "is not between 68 and 65535"))?;
        Ok(Self {
            mac,
            name: request.name.clone(),
            address,
            prefix_length: request.prefix_length,
            gateway,
            mtu,
        })
    }

    fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - self.prefix_length).unwrap_or(0))
    }

    /// Whether the gateway can be reached without a separate route.
    fn is_on_link(&self, gateway: Ipv4Addr) -> bool {
        let mask = u32::from(self.netmask());
        u32::from(gateway) & mask == u32::from(self.address) & mask
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn address_of(field: &'static str, bytes: &[u8]) -> Result<Ipv4Addr, InvalidRequest> {
    address(bytes).ok_or_else(|| InvalidRequest::new(field, "is not 4 bytes long"))
}

/// A socket for configuring interfaces, netdevice(7).
#[derive(Debug)]
struct Configurator(OwnedFd);

impl Configurator {
    fn new() -> Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
        socket
            .map(Self)
            .context("cannot open a socket to configure the network")
    }

    fn interface(&self, request: libc::c_ulong, name: &str, set: impl FnOnce(&mut libc::ifreq)) -> io::Result<()> {
        let mut ifreq = ifreq(name);
        set(&mut ifreq);
        // SAFETY: all requests used here take a pointer to an ifreq, and this one lives for the length of the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request as libc::Ioctl, &raw mut ifreq) })
    }

    fn set_address(&self, request: libc::c_ulong, name: &str, address: Ipv4Addr) -> io::Result<()> {
        self.interface(request, name, |ifreq| {
            ifreq.ifr_ifru.ifru_addr = socket_address(address)
        })
    }

    /// The name of the interface with this address, in the network namespace of the calling thread.
    fn find_by_mac(&self, mac: [u8; 6]) -> Result<String> {
        for interface in &if_nameindex().context("cannot list the network interfaces")? {
            let name = interface.name().to_string_lossy();
            let mut request = ifreq(&name);
            // SAFETY: SIOCGIFHWADDR takes a pointer to an ifreq, and this one lives for the length of the call.
            let found =
                check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCGIFHWADDR as libc::Ioctl, &raw mut request) });
            // SAFETY: the call has filled this member of the union, and it is plain data in any case.
            let address = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
            if found.is_ok() && address.iter().zip(mac).all(|(byte, wanted)| *byte as u8 == wanted) {
                return Ok(name.into_owned());
            }
        }
        let wanted = mac.map(|byte| format!("{byte:02x}")).join(":");
        bail!("no network interface has the MAC address {wanted}")
    }

    fn bring_up(&self, name: &str) -> io::Result<()> {
        self.interface(libc::SIOCSIFFLAGS, name, |ifreq| {
            ifreq.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        })
    }

    /// Adds a route over an interface, through a gateway or directly.
    fn add_route(&self, destination: (Ipv4Addr, Ipv4Addr), gateway: Option<Ipv4Addr>, name: &str) -> io::Result<()> {
        const RTF_UP: libc::c_ushort = 1;
        const RTF_GATEWAY: libc::c_ushort = 2;
        let mut device = ifreq(name).ifr_name;
        // SAFETY: rtentry is plain data for which zero means "not given".
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(destination.0);
        route.rt_genmask = socket_address(destination.1);
        route.rt_flags = RTF_UP;
        if let Some(gateway) = gateway {
            route.rt_gateway = socket_address(gateway);
            route.rt_flags |= RTF_GATEWAY;
        }
        route.rt_dev = device.as_mut_ptr();
        // SAFETY: SIOCADDRT takes a pointer to an rtentry; it and the name that it points to outlive the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SIOCADDRT as libc::Ioctl, &raw mut route) })
    }
}

fn ifreq(name: &str) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which zero is a valid value.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in ifreq.ifr_name.iter_mut().zip(name.bytes().take(MAX_NAME_BYTES)) {
        *target = byte as libc::c_char;
    }
    ifreq
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let [a, b, c, d] = address.octets();
    let mut data = [0; 14];
    for (target, byte) in data.iter_mut().skip(2).zip([a, b, c, d]) {
        *target = byte as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Brings up the loopback interface and, if there is one, the Pod's interface.
pub fn configure(interface: Option<&Interface>) -> Result<()> {
    let configurator = Configurator::new()?;
    configurator
        .bring_up("lo")
        .context("cannot bring the loopback interface up")?;
    for (path, value) in POD_SYSCTLS {
        fs::write(path, value).with_context(|| format!("cannot write {value:?} to {path}"))?;
    }
    let Some(interface) = interface else { return Ok(()) };
    let current = configurator.find_by_mac(interface.mac)?;
    let name = interface.name.as_str();
    if current != name {
        configurator
            .interface(libc::SIOCSIFNAME, &current, |request| {
                request.ifr_ifru.ifru_newname = ifreq(name).ifr_name
            })
            .with_context(|| format!("cannot rename the interface {current} to {name}"))?;
    }
    if interface.mtu > 0 {
        configurator
            .interface(libc::SIOCSIFMTU, name, |request| {
                request.ifr_ifru.ifru_mtu = interface.mtu
            })
            .with_context(|| format!("cannot set the MTU of {name} to {}", interface.mtu))?;
    }
    configurator
        .set_address(libc::SIOCSIFADDR, name, interface.address)
        .with_context(|| format!("cannot set the address of {name} to {}", interface.address))?;
    configurator
        .set_address(libc::SIOCSIFNETMASK, name, interface.netmask())
        .with_context(|| format!("cannot set the prefix length of {name} to {}", interface.prefix_length))?;
    configurator
        .bring_up(name)
        .with_context(|| format!("cannot bring {name} up"))?;
    if let Some(gateway) = interface.gateway {
        let everything = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        if !interface.is_on_link(gateway) {
            configurator
                .add_route((gateway, Ipv4Addr::BROADCAST), None, name)
                .with_context(|| format!("cannot add a route to the gateway {gateway}"))?;
        }
        configurator
            .add_route(everything, Some(gateway), name)
            .with_context(|| format!("cannot add the default route through {gateway}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> NetworkInterface {
        NetworkInterface {
            mac: vec![2, 0, 0, 0, 0, 1],
            name: "eth0".to_owned(),
            address: vec![10, 88, 0, 5],
            prefix_length: 16,
            gateway: vec![10, 88, 0, 1],
            mtu: 1500,
            ..Default::default()
        }
    }

    #[test]
    fn a_complete_request_is_accepted() {
        let interface = Interface::parse(&request()).unwrap();
        assert_eq!(interface.netmask(), Ipv4Addr::new(255, 255, 0, 0));
        assert!(interface.is_on_link(Ipv4Addr::new(10, 88, 200, 1)));
        assert!(!interface.is_on_link(Ipv4Addr::new(10, 89, 0, 1)));
    }

    #[test]
    fn the_extreme_prefix_lengths_have_a_netmask() {
        let with = |prefix_length| Interface {
            prefix_length,
            ..Interface::parse(&request()).unwrap()
        };
        assert_eq!(with(0).netmask(), Ipv4Addr::UNSPECIFIED);
        assert_eq!(with(32).netmask(), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn invalid_fields_are_refused() {
        for break_it in [
            (|r| r.mac.push(0)) as fn(&mut NetworkInterface),
            |r| r.name = "../x".to_owned(),
            |r| r.name = "sixteen-bytes-ab".to_owned(),
            |r| r.name.clear(),
            |r| r.prefix_length = 33,
            |r| r.address.clear(),
            |r| r.gateway.push(0),
            |r| r.mtu = 70_000,
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(Interface::parse(&request).is_err(), "{request:?}");
        }
    }

    proptest! {
        #[test]
        fn any_prefix_length_has_a_netmask_of_that_many_bits(prefix_length in 0_u32..=32) {
            let interface = Interface { prefix_length, ..Interface::parse(&request()).unwrap() };
            prop_assert_eq!(u32::from(interface.netmask()).leading_ones(), prefix_length);
        }
    }
}
