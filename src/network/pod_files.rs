//! Content of the network files in every container of a Pod: `/etc/hosts` and `/etc/resolv.conf`.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

/// Where systemd-resolved lists its upstream servers; its own stub listens on 127.0.0.53.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// Maximum number of name servers that the resolver uses (resolv.conf(5)).
const MAX_NAMESERVERS: usize = 3;

/// An entry of `spec.hostAliases`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAlias {
    /// The IP address.
    pub ip: String,
    pub hostnames: Vec<String>,
}

/// `/etc/hosts` as the kubelet writes it (`managedHostsFileContent` in `pkg/kubelet/kubelet_pods.go`).
pub fn pod_etc_hosts(hostname: &str, address: Option<Ipv4Addr>, aliases: &[HostAlias]) -> String {
    let mut hosts = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    if let Some(address) = address {
        let _ = writeln!(hosts, "{address}\t{hostname}");
    }
    if !aliases.is_empty() {
        hosts.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let _ = writeln!(hosts, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
        }
    }
    hosts
}

/// The host's resolver configuration, adapted for Pods (`dnsPolicy: Default`).
pub fn host_resolv_conf() -> String {
    let host = match fs::read_to_string(HOST_RESOLV_CONF) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!("Pods cannot resolve names: cannot read {HOST_RESOLV_CONF}: {error}");
            return String::new();
        }
    };
    pod_resolv_conf(&host, || fs::read_to_string(SYSTEMD_RESOLV_CONF).ok())
}

/// Derives a Pod's `/etc/resolv.conf` from the host's. Servers on loopback addresses are dropped, because the Pod
/// cannot reach them. If all are, the servers of `upstream` are used (`/run/systemd/resolve/resolv.conf`).
pub fn pod_resolv_conf(host: &str, upstream: impl FnOnce() -> Option<String>) -> String {
    let filtered = without_loopback(host);
    if has_nameserver(&filtered) || !has_nameserver(host) {
        return filtered;
    }
    let upstream = upstream()
        .map(|text| without_loopback(&text))
        .filter(|text| has_nameserver(text));
    upstream.unwrap_or_else(|| {
        tracing::warn!(
            "Pods cannot resolve names: all nameservers in {HOST_RESOLV_CONF} are loopback addresses, which Pods cannot reach, \
             and {SYSTEMD_RESOLV_CONF} has no others; set spec.dnsConfig.nameservers"
        );
        filtered
    })
}

/// `/etc/resolv.conf` for `dnsPolicy: None`, or another policy's with the additions from `spec.dnsConfig`
/// (`formDNSConfigFitsLimits`, `appendDNSConfig` in `pkg/kubelet/network/dns/dns.go`): servers and search domains are
/// appended without duplicates, and options override those with the same name.
pub fn with_dns_config(
    base: &str,
    nameservers: &[String],
    searches: &[String],
    options: &[(String, Option<String>)],
) -> String {
    let mut all_nameservers = Vec::new();
    let mut all_searches = Vec::new();
    let mut all_options: Vec<(String, Option<String>)> = Vec::new();
    let mut set_option = |name: &str, value: Option<&str>| {
        let value = value.map(str::to_owned);
        match all_options.iter_mut().find(|(existing, _)| existing == name) {
            Some(option) => option.1 = value,
            None => all_options.push((name.to_owned(), value)),
        }
    };
    for line in base.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => all_nameservers.extend(words.next().map(str::to_owned)),
            // Only the last search line counts.
            Some("search" | "domain") => all_searches = words.map(str::to_owned).collect(),
            Some("options") => {
                for option in words {
                    match option.split_once(':') {
                        Some((name, value)) => set_option(name, Some(value)),
                        None => set_option(option, None),
                    }
                }
            }
            _ => {}
        }
    }
    for (name, value) in options {
        set_option(name, value.as_deref());
    }
    append_new(&mut all_nameservers, nameservers);
    append_new(&mut all_searches, searches);
    all_nameservers.truncate(MAX_NAMESERVERS);
    let mut text = String::new();
    for nameserver in all_nameservers {
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    if !all_searches.is_empty() {
        let _ = writeln!(text, "search {}", all_searches.join(" "));
    }
    if !all_options.is_empty() {
        let options: Vec<String> = all_options
            .into_iter()
            .map(|(name, value)| value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")))
            .collect();
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

fn append_new(all: &mut Vec<String>, more: &[String]) {
    for entry in more {
        if !all.contains(entry) {
            all.push(entry.clone());
        }
    }
}

fn nameserver_of(line: &str) -> Option<&str> {
    let mut words = line.split_ascii_whitespace();
    (words.next() == Some("nameserver")).then(|| words.next()).flatten()
}

fn has_nameserver(text: &str) -> bool {
    text.lines().any(|line| nameserver_of(line).is_some())
}

fn without_loopback(text: &str) -> String {
    let kept = text.lines().filter(|line| {
        // Drop servers with an IPv6 zone (fe80::1%eth0), which do not parse as an address: Pods have no IPv6.
        nameserver_of(line).is_none_or(|server| server.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback()))
    });
    kept.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_file_matches_the_kubelets() {
        let alias = HostAlias {
            ip: "10.0.0.9".into(),
            hostnames: vec!["foo.local".into(), "bar.local".into()],
        };
        let hosts = pod_etc_hosts("web", Some(Ipv4Addr::new(10, 88, 0, 2)), &[alias]);
        assert_eq!(
            hosts,
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
             10.88.0.2\tweb\n\n# Entries added by HostAliases.\n10.0.0.9\tfoo.local\tbar.local\n"
        );
        assert!(!pod_etc_hosts("web", None, &[]).contains("HostAliases"));
    }

    #[test]
    fn loopback_servers_are_replaced_by_their_upstream_servers() {
        let stub = "# stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n";
        let real = "nameserver 192.0.2.1\nnameserver 127.0.0.1\nsearch lan\n";
        assert_eq!(
            pod_resolv_conf(stub, || Some(real.to_owned())),
            "nameserver 192.0.2.1\nsearch lan\n"
        );
        assert_eq!(
            pod_resolv_conf(stub, || None),
            "# stub\noptions edns0 trust-ad\nsearch lan\n"
        );
    }

    #[test]
    fn reachable_servers_are_kept_without_the_fallback() {
        let host = "nameserver 192.0.2.1\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\n";
        let pod = pod_resolv_conf(host, || panic!("not needed"));
        assert_eq!(pod, "nameserver 192.0.2.1\nnameserver 2001:db8::1\n");
        assert_eq!(pod_resolv_conf("search lan", || panic!("not needed")), "search lan\n");
    }

    #[test]
    fn dns_config_is_merged_as_the_kubelet_does() {
        let text = with_dns_config(
            "domain old\nnameserver 192.0.2.1\nsearch lan\noptions ndots:1 rotate\n",
            &[
                "192.0.2.1".into(),
                "192.0.2.2".into(),
                "192.0.2.3".into(),
                "192.0.2.4".into(),
            ],
            &["corp".into(), "lan".into()],
            &[("ndots".into(), Some("5".into())), ("edns0".into(), None)],
        );
        assert_eq!(
            text,
            "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch lan corp\noptions ndots:5 rotate edns0\n"
        );
        assert_eq!(with_dns_config("", &[], &[], &[]), "");
    }
}
