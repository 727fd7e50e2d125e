//! Counts objects that Pods can leave on a host.

use std::collections::BTreeSet;
use std::path::Path;

use crate::host::{Host, processes};

/// All of microkube's objects that are on the host now.
#[derive(Debug, PartialEq, Eq)]
pub struct Leftovers {
    taps: BTreeSet<String>,
    network_namespaces: BTreeSet<String>,
    mounts: usize,
    processes: Vec<i32>,
    leases: BTreeSet<String>,
    pods: BTreeSet<String>,
    nft_chains: BTreeSet<String>,
}

impl Leftovers {
    /// Asserts that one Pod more than `before` adds to the count of each kind of object: a count that never finds
    /// anything proves nothing.
    #[track_caller]
    pub fn assert_one_pod_more_than(&self, before: &Self) {
        assert_eq!(self.taps.len(), before.taps.len() + 1, "TAPs");
        assert_eq!(self.leases.len(), before.leases.len() + 1, "leases");
        assert_eq!(self.pods.len(), before.pods.len() + 1, "Pods");
        assert_eq!(self.processes.len(), before.processes.len() + 2, "VMM and supervisor");
        assert_eq!(self.nft_chains.len(), before.nft_chains.len() + 1, "nftables chains");
    }
}

impl Host {
    /// Counts the objects now.
    pub fn leftovers(&self) -> Leftovers {
        let mut processes_left = processes(&["microkube-vmm", "supervised"]);
        processes_left.extend(processes(&["supervise"]));
        processes_left.extend(processes(&["microkube-file-server"]));
        Leftovers {
            taps: names(Path::new("/sys/class/net"))
                .into_iter()
                .filter(|name| name.starts_with("mk"))
                .collect(),
            network_namespaces: network_namespaces(),
            mounts: std::fs::read_to_string("/proc/mounts").unwrap().lines().count(),
            processes: processes_left,
            leases: names(&self.state_dir.join("network/leases")),
            // Disks and sockets are in these directories and nowhere else.
            pods: &names(&self.state_dir.join("pods")) | &names(&self.run_dir.join("pods")),
            nft_chains: nft_chains(),
        }
    }

    /// Releases what dead owners left behind, and asserts that no more is left than before.
    #[track_caller]
    pub fn assert_nothing_left_since(&self, before: &Leftovers) {
        self.succeed(["recover"]);
        assert_eq!(&self.leftovers(), before);
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return BTreeSet::new();
    };
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.parse::<std::net::Ipv4Addr>().is_ok() || !dir.ends_with("leases"))
        .collect()
}

fn network_namespaces() -> BTreeSet<String> {
    let processes = names(Path::new("/proc"))
        .into_iter()
        .filter(|name| name.parse::<i32>().is_ok());
    processes
        .filter_map(|pid| {
            Some(
                std::fs::read_link(format!("/proc/{pid}/ns/net"))
                    .ok()?
                    .display()
                    .to_string(),
            )
        })
        .collect()
}

/// Chains of the anti-spoofing table, one per TAP.
fn nft_chains() -> BTreeSet<String> {
    let output = std::process::Command::new("nft")
        .args(["list", "table", "netdev", "microkube"])
        .output();
    let output = output.expect("nft is installed by `make`");
    let complaint = String::from_utf8_lossy(&output.stderr);
    // Before the first Pod the table does not exist; any other message of nft means that the count failed.
    assert!(
        output.status.success() || complaint.contains("No such file or directory"),
        "{complaint}"
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("chain "))
        .map(|name| name.trim_end_matches(" {").to_owned())
        .collect()
}
