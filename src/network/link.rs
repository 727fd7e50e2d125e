//! The bridge and its ports, over rtnetlink.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use futures::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkFlags;
use rtnetlink::{Handle, LinkBridge, LinkUnspec};

use super::config::NetworkConfig;
use super::error::NetworkError;

/// A connection to the kernel's routing subsystem, closed on drop.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links {
    /// Connects; must be called on a tokio runtime.
    pub fn connect() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetworkError::System {
            action: "connect to netlink".to_owned(),
            source,
        })?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Makes sure that the bridge exists, has the gateway's address and is up, even if other processes create it
    /// concurrently. Returns its index.
    pub async fn ensure_bridge(&self, config: &NetworkConfig) -> Result<u32, NetworkError> {
        let name = config.bridge_name.as_str();
        let gateway = config.subnet.gateway();
        let (index, up) = match self.find(name).await? {
            Some(found) => found,
            None => {
                self.refuse_overlap(config).await?;
                // Set a fixed MAC address: otherwise the bridge takes the lowest MAC address of its ports. That one
                // changes as Pods come and go, while other Pods still have the old one in their neighbour caches.
                let link = LinkBridge::new(name)
                    .address(mac_of(gateway).to_vec())
                    .mtu(config.mtu)
                    .build();
                let created = self.handle.link().add(link).execute().await;
                ignore_errno(created, libc::EEXIST).map_err(|source| failed("create bridge", name, source))?;
                disable_ipv6(name)?;
                self.find(name)
                    .await?
                    .ok_or_else(|| NetworkError::BridgeGone(name.to_owned()))?
            }
        };
        let addresses = self.addresses().await?;
        let mut has_gateway = false;
        for HostAddress {
            index: owner,
            address,
            prefix_length,
            ..
        } in addresses
        {
            if owner != index {
                continue;
            }
            if (address, prefix_length) == (gateway, config.subnet.prefix_length()) {
                has_gateway = true;
            } else {
                return Err(NetworkError::BridgeAddress {
                    bridge: name.to_owned(),
                    found: format!("{address}/{prefix_length}"),
                    wanted: format!("{gateway}/{}", config.subnet.prefix_length()),
                });
            }
        }
        if !has_gateway {
            self.refuse_overlap(config).await?;
            let added = self
                .handle
                .address()
                .add(index, IpAddr::V4(gateway), config.subnet.prefix_length())
                .execute()
                .await;
            ignore_errno(added, libc::EEXIST).map_err(|source| failed("give an address to bridge", name, source))?;
        }
        if !up {
            let link = LinkUnspec::new_with_index(index).up().build();
            self.handle
                .link()
                .set(link)
                .execute()
                .await
                .map_err(|source| failed("bring up bridge", name, source))?;
        }
        Ok(index)
    }

    /// Attaches a TAP to the bridge and brings it up.
    pub async fn add_to_bridge(&self, tap_name: &str, bridge_index: u32, mtu: u32) -> Result<(), NetworkError> {
        let (index, _) = self
            .find(tap_name)
            .await?
            .ok_or_else(|| NetworkError::TapGone(tap_name.to_owned()))?;
        disable_ipv6(tap_name)?;
        let link = LinkUnspec::new_with_index(index)
            .controller(bridge_index)
            .mtu(mtu)
            .up()
            .build();
        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .map_err(|source| failed("attach TAP", tap_name, source))
    }

    /// Index of an interface and whether it is up.
    async fn find(&self, name: &str) -> Result<Option<(u32, bool)>, NetworkError> {
        let mut links = self.handle.link().get().match_name(name).execute();
        match links.try_next().await {
            Ok(Some(link)) => Ok(Some((link.header.index, link.header.flags.contains(LinkFlags::Up)))),
            Ok(None) => Ok(None),
            Err(error) if errno_of(&error) == Some(libc::ENODEV) => Ok(None),
            Err(source) => Err(failed("look up interface", name, source)),
        }
    }

    /// All IPv4 addresses of the host.
    async fn addresses(&self) -> Result<Vec<HostAddress>, NetworkError> {
        let mut found = Vec::new();
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses
            .try_next()
            .await
            .map_err(|source| failed("list addresses of", "the host", source))?
        {
            let mut label = String::new();
            let mut local = None;
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => local = Some(address),
                    AddressAttribute::Label(name) => label = name,
                    _ => {}
                }
            }
            if let Some(address) = local {
                let (index, prefix_length) = (message.header.index, message.header.prefix_len);
                found.push(HostAddress {
                    index,
                    label,
                    address,
                    prefix_length,
                });
            }
        }
        Ok(found)
    }

    /// Fails if the host reaches the Pod network, or a part of it, through another interface.
    async fn refuse_overlap(&self, config: &NetworkConfig) -> Result<(), NetworkError> {
        let subnet = config.subnet;
        for HostAddress {
            label,
            address,
            prefix_length,
            ..
        } in self.addresses().await?
        {
            // Compare names: another process may have created the bridge since the lookup.
            if label != config.bridge_name && subnet.overlaps(address, prefix_length) {
                return Err(NetworkError::SubnetInUse {
                    subnet,
                    address,
                    prefix_length,
                });
            }
        }
        Ok(())
    }
}

/// An IPv4 address of one of the host's interfaces.
struct HostAddress {
    /// Index of the interface.
    index: u32,
    /// The interface's name, unless the administrator chose another label.
    label: String,
    address: Ipv4Addr,
    prefix_length: u8,
}

/// Disables IPv6: the bridge carries only IPv4, and an IPv6 address on an interface would bypass the rules.
fn disable_ipv6(interface: &str) -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys/net/ipv6/conf")
        .join(interface)
        .join("disable_ipv6");
    match fs::write(&path, "1") {
        // The kernel has no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| NetworkError::System {
            action: format!("write {}", path.display()),
            source,
        }),
    }
}

/// Enables IP forwarding on the host.
pub fn enable_forwarding() -> Result<(), NetworkError> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let failed = |source| NetworkError::System {
        action: format!("enable forwarding in {path}"),
        source,
    };
    if fs::read_to_string(path).map_err(failed)?.trim() != "1" {
        fs::write(path, "1").map_err(failed)?;
    }
    Ok(())
}

/// The MAC address for an address of the Pod network: locally administered, and containing the IP address, as in CNI's
/// bridge plugin.
pub fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn errno_of(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code().saturating_neg()),
        _ => None,
    }
}

fn ignore_errno(result: Result<(), rtnetlink::Error>, errno: i32) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno_of(&error) == Some(errno) => Ok(()),
        result => result,
    }
}

fn failed(action: &str, name: &str, error: rtnetlink::Error) -> NetworkError {
    let source = match &error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        _ => io::Error::other(error),
    };
    NetworkError::System {
        action: format!("{action} {name}"),
        source,
    }
}
