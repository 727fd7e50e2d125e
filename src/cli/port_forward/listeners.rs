//! The local addresses and their sockets, as kubectl opens them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::bail;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

use super::ports::ForwardedPort;
use crate::cli::print::print;
use crate::stderr::say;

/// How many connections wait until they are accepted.
const BACKLOG: u32 = 128;

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListenAddress {
    address: IpAddr,
    /// Whether it is one of those of `localhost`, of which one is enough.
    of_localhost: bool,
}

impl ListenAddress {
    /// Parses the values of `--address`. Each address occurs once.
    ///
    /// # Errors
    /// With kubectl's messages.
    pub(super) fn parse_all(texts: &[String]) -> anyhow::Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        let mut add = |address: IpAddr, of_localhost: bool| {
            if all.iter().all(|known| known.address != address) {
                all.push(Self { address, of_localhost });
            }
        };
        for text in texts {
            match text.parse() {
                Ok(address) => add(address, false),
                Err(_) if text == "localhost" => {
                    add(Ipv4Addr::LOCALHOST.into(), true);
                    add(Ipv6Addr::LOCALHOST.into(), true);
                }
                Err(_) => bail!("{text} is not a valid IP"),
            }
        }
        all.sort();
        Ok(all)
    }
}

/// A socket whose connections lead to a port of the Pod.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) port: ForwardedPort,
}

/// Listens on every address for every port, and prints what it listens on. A port that cannot be opened is reported, and
/// the others are used.
///
/// # Errors
/// As in kubectl: if none of the ports can be opened.
pub(super) fn listen(ports: &[ForwardedPort], addresses: &[ListenAddress]) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    let mut tried = Vec::new();
    let mut is_any_open = false;
    for port in ports {
        let mut port = *port;
        match listen_on_port(&mut port, addresses, &mut listeners)? {
            errors if errors.is_empty() => is_any_open = true,
            errors => say!(
                "Unable to listen on port {}: Listeners failed to create with the following errors: [{}]",
                port.local,
                errors.join(" ")
            ),
        }
        tried.push(port.to_string());
    }
    if !is_any_open {
        bail!("unable to listen on any of the requested ports: [{}]", tried.join(" "));
    }
    Ok(listeners)
}

/// Listens on one port, and returns why it does not count as open. A random port is the same on all addresses.
fn listen_on_port(
    port: &mut ForwardedPort,
    addresses: &[ListenAddress],
    listeners: &mut Vec<Listener>,
) -> anyhow::Result<Vec<String>> {
    let mut errors = Vec::new();
    let (mut is_localhost_open, mut is_complete) = (false, true);
    for ListenAddress { address, of_localhost } in addresses {
        match open(SocketAddr::new(*address, port.local)) {
            Ok((socket, local)) => {
                port.local = local.port();
                print(&format!("Forwarding from {local} -> {}\n", port.remote))?;
                listeners.push(Listener { socket, port: *port });
                is_localhost_open |= of_localhost;
            }
            Err(error) => {
                errors.push(error);
                is_complete &= of_localhost;
            }
        }
    }
    let wants_localhost = addresses.iter().any(|address| address.of_localhost);
    let is_open = is_complete && (is_localhost_open || !wants_localhost);
    Ok(if is_open { Vec::new() } else { errors })
}

/// Opens a listening socket. The error is as Go's.
fn open(address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let listen = || -> io::Result<(TcpListener, SocketAddr)> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => {
                let socket = TcpSocket::new_v6()?;
                // `::` must not take the IPv4 addresses, too.
                setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
                socket
            }
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    listen().map_err(|error| {
        let network = if address.is_ipv4() { "tcp4" } else { "tcp6" };
        let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let why = errno.desc().to_lowercase();
        format!("unable to create listener: Error listen {network} {address}: bind: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> anyhow::Result<Vec<ListenAddress>> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        ListenAddress::parse_all(&texts)
    }

    #[test]
    fn addresses_are_ips_or_localhost_which_is_both_loopbacks() {
        let shown = |texts: &[&str]| -> Vec<(String, bool)> {
            let all = addresses(texts).unwrap();
            all.iter()
                .map(|listen| (listen.address.to_string(), listen.of_localhost))
                .collect()
        };
        let (ipv4, ipv6) = (("127.0.0.1".to_owned(), true), ("::1".to_owned(), true));
        assert_eq!(shown(&["localhost"]), [ipv4.clone(), ipv6.clone()]);
        assert_eq!(shown(&["localhost", "127.0.0.1", "::1"]), [ipv4, ipv6]);
        assert_eq!(
            shown(&["::", "0.0.0.0", "::"]),
            [("0.0.0.0".to_owned(), false), ("::".to_owned(), false)]
        );
        for text in ["example.org", "", "127.0.0", "[::1]", "localhost:80"] {
            assert_eq!(
                addresses(&[text]).unwrap_err().to_string(),
                format!("{text} is not a valid IP")
            );
        }
    }

    #[tokio::test]
    async fn a_random_port_is_the_same_on_all_addresses() {
        let any = ForwardedPort { local: 0, remote: 80 };
        let listeners = listen(&[any], &addresses(&["127.0.0.1", "127.0.0.2"]).unwrap()).unwrap();
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.socket.local_addr().unwrap().port())
            .collect();
        assert!(ports[0] > 0);
        assert_eq!(ports, [ports[0], ports[0]]);
        assert!(listeners.iter().all(|listener| listener.port.local == ports[0]));
    }

    #[tokio::test]
    async fn a_used_port_is_an_error_in_the_words_of_kubectl_unless_another_is_open() {
        let used = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = used.local_addr().unwrap().port();
        let taken = ForwardedPort { local, remote: 80 };
        let here = addresses(&["127.0.0.1"]).unwrap();
        let message = listen(&[taken, taken], &here).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("unable to listen on any of the requested ports: [{{{local} 80}} {{{local} 80}}]")
        );
        let mut port = taken;
        let errors = listen_on_port(&mut port, &here, &mut Vec::new()).unwrap();
        let error =
            format!("unable to create listener: Error listen tcp4 127.0.0.1:{local}: bind: address already in use");
        assert_eq!(errors, [error]);
        let free = ForwardedPort { local: 0, remote: 81 };
        let listeners = listen(&[taken, free], &here).unwrap();
        assert_eq!(listeners.len(), 1);
        assert_eq!(listeners[0].port.remote, 81);
    }
}
