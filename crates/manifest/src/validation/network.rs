//! Kubernetes' rules for a Pod's names and name resolution.

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodSpec};

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;

/// `MaxDNSNameservers`, `MaxDNSSearchPaths`, `MaxDNSSearchListChars`
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// Checks host name, DNS settings and host aliases.
pub(super) fn validate(spec: &PodSpec, path: &FieldPath, found: &mut Found) {
    let policy = spec.dns_policy.as_deref().unwrap_or_default();
    let allowed = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    if policy.is_empty() {
        found.required(&path.field("dnsPolicy"), "");
    } else {
        found.one_of(&path.field("dnsPolicy"), policy, &allowed);
    }
    dns_config(spec.dns_config.as_ref(), policy, &path.field("dnsConfig"), found);
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            found.invalid_for_each(&path.field(field), name, names::dns_label(name));
        }
    }
    host_aliases(
        spec.host_aliases.as_deref().unwrap_or_default(),
        &path.field("hostAliases"),
        found,
    );
}

fn dns_config(config: Option<&PodDNSConfig>, policy: &str, path: &FieldPath, found: &mut Found) {
    let Some(config) = config else {
        if policy == "None" {
            found.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let nameservers = config.nameservers.as_deref().unwrap_or_default();
    let field = path.field("nameservers");
    if policy == "None" && nameservers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        found.required(&field, detail);
        return;
    }
    if nameservers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        found.invalid(&field, format_args!("{}", list(nameservers)), detail);
    }
    for (index, nameserver) in nameservers.iter().enumerate() {
        found.ip(&field.index(index), nameserver);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let field = path.field("searches");
    if searches.len() > MAX_SEARCHES {
        let detail = format!("must not have more than {MAX_SEARCHES} search paths");
        found.invalid(&field, format_args!("{}", list(searches)), detail);
    }
    let characters = searches
        .iter()
        .map(|search| search.len() + 1)
        .sum::<usize>()
        .saturating_sub(1);
    if characters > MAX_SEARCH_CHARACTERS {
        let detail =
            format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        found.invalid(&field, format_args!("{}", list(searches)), detail);
    }
    for (index, search) in searches.iter().enumerate() {
        if search != "." {
            let name = search.strip_suffix('.').unwrap_or(search);
            found.invalid_for_each(&field.index(index), name, names::dns_subdomain_with_underscore(name));
        }
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        let field = path.field("options").index(index);
        let name = option.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            found.required(&field, "must not be empty");
        }
        // These are written to resolv.conf unchanged.
        for text in [name, option.value.as_deref().unwrap_or_default()] {
            if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                found.invalid(&field, text, "must not contain white space");
            }
        }
    }
}

/// A list as Kubernetes shows it, truncated if it is long.
fn list(values: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = values
        .iter()
        .take(SHOWN)
        .map(|value| format!("{:?}", super::super::suggest::shorten(value)))
        .collect();
    let more = if values.len() > SHOWN { ",…" } else { "" };
    format!("[{}{more}]", shown.join(","))
}

fn host_aliases(aliases: &[HostAlias], path: &FieldPath, found: &mut Found) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        found.ip(&path.field("ip"), &alias.ip);
        for (index, hostname) in alias.hostnames.iter().flatten().enumerate() {
            found.invalid_for_each(
                &path.field("hostnames").index(index),
                hostname,
                names::dns_subdomain(hostname),
            );
        }
    }
}
