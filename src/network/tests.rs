use super::*;

#[test]
fn tap_names_fit_and_come_from_the_uid() {
    assert_eq!(tap_name("3F0c9d1e-8a7b-4c5d-9e0f-1a2b3c4d5e6f"), "mk3f0c9d1e8a7");
    assert!(tap_name("3f0c9d1e-8a7b-4c5d-9e0f-1a2b3c4d5e6f").len() <= 15);
}

#[test]
fn macs_are_locally_administered_unicast_and_unique_per_address() {
    let mac = mac_of(Ipv4Addr::new(10, 88, 1, 2));
    assert_eq!(mac, [0x0a, 0x58, 10, 88, 1, 2]);
    assert_eq!(mac[0] & 0b11, 0b10);
}

#[test]
fn damaged_leases_are_swept_and_live_ones_kept() {
    // No lease with a uid is dead here, so that no nftables, and no privilege, is needed.
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

/// Real packets through the real kernel. Run as root in a network namespace of its own:
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
            require_anti_spoofing: true,
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

    /// The frames that arrive within a moment.
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
    #[ignore = "needs root and a network namespace of its own"]
    async fn pods_reach_the_host_and_each_other_and_cannot_spoof() {
        let state = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let a = attach(state.path(), A, &config()).await.unwrap();
        println!("first attach: {:?}", started.elapsed());
        let started = Instant::now();
        let b = attach(state.path(), B, &config()).await.unwrap();
        println!("second attach: {:?}", started.elapsed());
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
        assert!(
            answers
                .iter()
                .any(|frame| frame[12..14] == [8, 6] && frame[6..12] == mac_of(a.gateway) && frame[20..22] == [0, 2])
        );
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
}
