use std::net::Ipv4Addr;

use super::*;

#[test]
fn tap_names_fit_and_come_from_the_uid() {
    assert_eq!(tap_name("3F0c9d1e-8a7b-4c5d-9e0f-1a2b3c4d5e6f"), "mk3f0c9d1e8a7");
    assert!(tap_name("3f0c9d1e-8a7b-4c5d-9e0f-1a2b3c4d5e6f").len() <= 15);
}

#[test]
fn macs_are_locally_administered_unicast_and_unique_per_address() {
    let mac = link::mac_of(Ipv4Addr::new(10, 88, 1, 2));
    assert_eq!(mac, [0x0a, 0x58, 10, 88, 1, 2]);
    assert_eq!(mac[0] & 0b11, 0b10);
}

#[test]
fn damaged_leases_are_swept_and_live_ones_kept() {
    // No lease with a UID is dead, so the test needs neither nftables nor privileges.
    let state = tempfile::tempdir().unwrap();
    let store = lease::LeaseStore::open(state.path()).unwrap();
    let kept = store.acquire("10.1.0.0/24".parse().unwrap(), "aaaa").unwrap();
    drop(store);
    std::fs::write(state.path().join("leases/10.1.0.9"), "").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let swept = runtime.block_on(sweep(state.path(), |uid| uid == "aaaa")).unwrap();
    assert_eq!(
        swept,
        [Lease {
            address: Ipv4Addr::new(10, 1, 0, 9),
            pod_uid: None
        }]
    );
    assert_eq!(
        leases(state.path()).unwrap(),
        [Lease {
            address: kept,
            pod_uid: Some("aaaa".into())
        }]
    );
}

#[test]
fn without_spoofing_protection_a_pod_is_not_connected_and_the_error_suggests_a_remedy() {
    for errno in [libc::EOPNOTSUPP, libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT] {
        let error = unguarded(io::Error::from_raw_os_error(errno));
        assert!(matches!(error, NetworkError::NoIngressHook(_)), "{error}");
        assert!(error.to_string().contains("CONFIG_NETFILTER_INGRESS"), "{error}");
    }
    let other = unguarded(io::Error::from_raw_os_error(libc::EPERM));
    assert!(matches!(other, NetworkError::Firewall { .. }), "{other}");
}

#[test]
fn a_pod_gets_no_tap_without_spoofing_protection() {
    let is_open = |pipe: &mut std::io::PipeReader| {
        let mut byte = [0];
        // The pipe reaches its end when the writer is closed.
        std::io::Read::read(pipe, &mut byte).unwrap() == 1
    };
    let (mut reader, tap) = std::io::pipe().unwrap();
    let refused = guarded(tap, || Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
    assert!(matches!(refused, Err(NetworkError::NoIngressHook(_))));
    assert!(!is_open(&mut reader), "the TAP is closed, so it no longer exists");
    let (mut reader, tap) = std::io::pipe().unwrap();
    let mut tap = guarded(tap, || Ok(())).unwrap();
    std::io::Write::write_all(&mut tap, b"x").unwrap();
    assert!(is_open(&mut reader));
}

/// Real packets through the real kernel. Run as root in a separate network namespace:
/// `unshare -n cargo test -p microkube --lib network::tests::real -- --ignored --test-threads=1`
mod real {
    use std::io::{Read, Write};
    use std::time::{Duration, Instant};

    use super::*;

    const A: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
    const B: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

    fn config() -> NetworkConfig {
        NetworkConfig {
            bridge_name: "microkube0".into(),
            subnet: "10.88.0.0/16".parse().unwrap(),
            mtu: 1500,
        }
    }

    fn frame(destination: [u8; 6], source: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&destination);
        frame.extend_from_slice(&source);
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(payload);
        frame.resize(frame.len().max(72), 0);
        frame
    }

    fn arp_request(sender_mac: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
        arp.extend_from_slice(&sender_mac);
        arp.extend_from_slice(&sender.octets());
        arp.extend_from_slice(&[0; 6]);
        arp.extend_from_slice(&target.octets());
        arp
    }

    /// An IPv4 packet of an experimental protocol (253).
    fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, marker: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 21, 0, 0, 0, 0, 64, 253, 0, 0];
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&destination.octets());
        let sum: u32 = packet
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.push(marker);
        packet
    }

    /// The frames that arrive within a short time.
    fn receive(tap: &std::fs::File) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            let mut buffer = [0; 2048];
            match (&*tap).read(&mut buffer) {
                Ok(length) => frames.push(buffer[12..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("{error}"),
            }
        }
        frames
    }

    #[tokio::test]
    #[ignore = "needs root and a separate network namespace"]
    async fn pods_reach_the_host_and_each_other_and_cannot_spoof() {
        let state = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let a = connect(state.path(), A, &config()).await.unwrap();
        println!("first connection: {:?}", started.elapsed());
        let started = Instant::now();
        let b = connect(state.path(), B, &config()).await.unwrap();
        println!("second connection: {:?}", started.elapsed());
        assert_eq!(
            (a.address, b.address),
            (Ipv4Addr::new(10, 88, 0, 2), Ipv4Addr::new(10, 88, 0, 3))
        );
        let (tap_a, tap_b) = (
            std::fs::File::from(a.tap.try_clone().unwrap()),
            std::fs::File::from(b.tap.try_clone().unwrap()),
        );
        receive(&tap_a);
        receive(&tap_b);

        // The host answers ARP.
        (&tap_a)
            .write_all(&frame(
                [0xff; 6],
                a.mac,
                0x0806,
                &arp_request(a.mac, a.address, a.gateway),
            ))
            .unwrap();
        let answers = receive(&tap_a);
        assert!(answers.iter().any(|frame| frame[12..14] == [8, 6]
            && frame[6..12] == link::mac_of(a.gateway)
            && frame[20..22] == [0, 2]));
        receive(&tap_b);

        let honest = ipv4(a.address, b.address, 1);
        let stolen_ip = ipv4(Ipv4Addr::new(10, 88, 0, 9), b.address, 2);
        let other_mac = [0x0a, 0x58, 1, 2, 3, 4];
        for (name, sent, arrives) in [
            ("honest IPv4", frame(b.mac, a.mac, 0x0800, &honest), true),
            (
                "source address of another",
                frame(b.mac, a.mac, 0x0800, &stolen_ip),
                false,
            ),
            ("source MAC of another", frame(b.mac, other_mac, 0x0800, &honest), false),
            (
                "honest ARP",
                frame([0xff; 6], a.mac, 0x0806, &arp_request(a.mac, a.address, b.address)),
                true,
            ),
            (
                "ARP for the gateway",
                frame([0xff; 6], a.mac, 0x0806, &arp_request(a.mac, a.gateway, b.address)),
                false,
            ),
            (
                "ARP with another MAC",
                frame([0xff; 6], a.mac, 0x0806, &arp_request(other_mac, a.address, b.address)),
                false,
            ),
            ("IPv6", frame(b.mac, a.mac, 0x86dd, &[0x60; 40]), false),
            ("unknown ethertype", frame(b.mac, a.mac, 0x88cc, &[1; 40]), false),
        ] {
            (&tap_a).write_all(&sent).unwrap();
            let arrived = receive(&tap_b).iter().any(|frame| frame[..14] == sent[12..26]);
            assert_eq!(arrived, arrives, "{name}");
        }

        let rules = std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
            .unwrap();
        println!("{}", String::from_utf8_lossy(&rules.stdout));
        drop((a, b, tap_a, tap_b));
        assert_eq!(leases(state.path()).unwrap().len(), 2);
        release(state.path(), A).await.unwrap();
        release(state.path(), A).await.unwrap();
        assert_eq!(sweep(state.path(), |_| false).await.unwrap().len(), 1);
        assert_eq!(leases(state.path()).unwrap(), []);
        let rules = std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
            .unwrap();
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        assert!(!rules.contains("chain mk"), "{rules}");
        assert!(!std::path::Path::new("/sys/class/net").join(tap_name(A)).exists());
    }

    /// Runs `ip` with these arguments.
    fn ip(arguments: &str) {
        let status = std::process::Command::new("ip")
            .args(arguments.split(' '))
            .status()
            .unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    /// Receives everything that arrives at an interface.
    fn packet_socket(interface: &str) -> std::fs::File {
        use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
        use std::os::fd::AsRawFd;
        let all = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, all).unwrap();
        let index = nix::net::if_::if_nametoindex(interface).unwrap();
        // SAFETY: sockaddr_ll consists of integers, for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = index as i32;
        // SAFETY: the pointer refers to a sockaddr_ll, and the length is its size.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        assert_eq!(bound, 0);
        socket.into()
    }

    #[tokio::test]
    #[ignore = "needs root and a separate network namespace"]
    async fn outgoing_traffic_has_the_hosts_address() {
        ip("link add out0 type veth peer name out1");
        ip("addr add 192.0.2.1/24 dev out0");
        ip("link set out0 up");
        ip("link set out1 up");
        ip("neigh add 192.0.2.7 lladdr 02:00:00:00:00:07 dev out0");
        let state = tempfile::tempdir().unwrap();
        let pod = connect(state.path(), A, &config()).await.unwrap();
        let outside = packet_socket("out1");
        let packet = ipv4(pod.address, Ipv4Addr::new(192, 0, 2, 7), 9);
        (&std::fs::File::from(pod.tap))
            .write_all(&frame(link::mac_of(pod.gateway), pod.mac, 0x0800, &packet))
            .unwrap();
        let mut arrived = Vec::new();
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && arrived.is_empty() {
            let mut buffer = [0; 2048];
            if let Ok(length) = (&outside).read(&mut buffer)
                && buffer[12..14] == [8, 0]
                && buffer[23] == 253
            {
                arrived = buffer[14..length].to_vec();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(
            arrived.get(12..20),
            Some([192, 0, 2, 1, 192, 0, 2, 7].as_slice()),
            "{arrived:?}"
        );
        release(state.path(), A).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    #[ignore = "needs root and a separate network namespace"]
    async fn many_pods_connect_at_once() {
        let state = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let tasks: Vec<_> = (0..40)
            .map(|n| {
                let state = state.path().to_owned();
                tokio::spawn(async move { connect(&state, &format!("{n:08x}-{n:04x}"), &config()).await.unwrap() })
            })
            .collect();
        let mut pods = Vec::new();
        for task in tasks {
            pods.push(task.await.unwrap());
        }
        println!("40 connected in {:?}", started.elapsed());
        let mut addresses: Vec<_> = pods.iter().map(|pod| pod.address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 40);
        let error = connect(state.path(), "00000000-0000", &config()).await.unwrap_err();
        assert!(error.to_string().ends_with("the Pod's VM is still running"), "{error}");
        assert_eq!(leases(state.path()).unwrap().len(), 40);
        drop(pods);
        assert_eq!(sweep(state.path(), |_| false).await.unwrap().len(), 40);
    }

    #[tokio::test]
    #[ignore = "needs root and a separate network namespace"]
    async fn a_pod_network_that_overlaps_a_host_network_is_refused() {
        ip("link add inner0 type veth peer name inner1");
        ip("addr add 10.77.3.1/24 dev inner0");
        let state = tempfile::tempdir().unwrap();
        let config = NetworkConfig {
            subnet: "10.77.0.0/16".parse().unwrap(),
            bridge_name: "mkother0".into(),
            ..config()
        };
        let error = connect(state.path(), A, &config).await.unwrap_err();
        assert!(matches!(error, NetworkError::SubnetInUse { .. }), "{error}");
        assert!(!Path::new("/sys/class/net/mkother0").exists());
    }
}
