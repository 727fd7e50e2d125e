//! Kubernetes' rules for a Pod, in its words and formats (`pkg/apis/core/validation/validation.go`), for the fields that microkube
//! supports. Works on the defaulted Pod and finds all problems.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Capabilities, HostAlias, Pod, PodDNSConfig, PodSpec, SeccompProfile, Volume};

use super::error::{FieldPath, Problem};
use super::{container_validation, names, suggest};

const REQUIRED: &str = "Required value";
/// `TotalAnnotationSizeLimitB`
const MAX_ANNOTATION_BYTES: usize = 256 << 10;
/// `MaxDNSNameservers`, `MaxDNSSearchPaths`, `MaxDNSSearchListChars`
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// Everything that is wrong with the Pod.
pub fn validate(pod: &Pod) -> Vec<Problem> {
    let mut found = Found::default();
    metadata(pod, &mut found);
    let path = FieldPath::default().field("spec");
    match &pod.spec {
        Some(spec) => pod_spec(spec, &path, &mut found),
        None => found.required(&path, ""),
    }
    found.0
}

/// Collects problems in Kubernetes' formats.
#[derive(Default)]
pub(super) struct Found(pub(super) Vec<Problem>);

impl Found {
    pub(super) fn add(&mut self, path: &FieldPath, what: impl Display) {
        self.0.push(Problem::at(path, what));
    }

    pub(super) fn required(&mut self, path: &FieldPath, detail: &str) {
        let separator = if detail.is_empty() { "" } else { ": " };
        self.add(path, format_args!("{REQUIRED}{separator}{detail}"));
    }

    /// An invalid value; strings are shown in quotes.
    pub(super) fn invalid(&mut self, path: &FieldPath, value: impl Shown, detail: impl Display) {
        self.add(path, format_args!("Invalid value: {}: {detail}", value.shown()));
    }

    pub(super) fn invalid_for_each(&mut self, path: &FieldPath, value: &str, details: Vec<String>) {
        for detail in details {
            self.invalid(path, value, detail);
        }
    }

    pub(super) fn duplicate(&mut self, path: &FieldPath, value: &str) {
        self.add(path, format_args!("Duplicate value: {}", value.shown()));
    }

    pub(super) fn not_found(&mut self, path: &FieldPath, value: &str) {
        self.add(path, format_args!("Not found: {}", value.shown()));
    }

    /// A value that is none of the allowed ones.
    pub(super) fn one_of(&mut self, path: &FieldPath, value: &str, allowed: &[&str]) {
        if allowed.contains(&value) {
            return;
        }
        let list: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
        self.add(
            path,
            format_args!(
                "Unsupported value: {}: supported values: {}",
                value.shown(),
                list.join(", ")
            ),
        );
    }

    pub(super) fn between(&mut self, path: &FieldPath, value: i64, min: i64, max: i64) {
        if !(min..=max).contains(&value) {
            self.invalid(path, value, format_args!("must be between {min} and {max}, inclusive"));
        }
    }

    /// A string that becomes a C string.
    pub(super) fn no_nul(&mut self, path: &FieldPath, value: &str) {
        if value.contains('\0') {
            self.invalid(path, value, "must not contain a NUL character");
        }
    }
}

/// A value as Kubernetes shows it in an error.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for &str {
    fn shown(&self) -> String {
        format!("{:?}", suggest::shorten(self))
    }
}

impl Shown for i64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for fmt::Arguments<'_> {
    fn shown(&self) -> String {
        self.to_string()
    }
}

fn metadata(pod: &Pod, found: &mut Found) {
    let path = FieldPath::default().field("metadata");
    let metadata = &pod.metadata;
    let generate_name = metadata.generate_name.as_deref().unwrap_or_default();
    if !generate_name.is_empty() {
        // `NameIsDNSSubdomain` with prefix: a dash at the end is fine, the random part follows.
        let masked = generate_name
            .strip_suffix('-')
            .map_or_else(|| generate_name.to_owned(), |name| format!("{name}a"));
        found.invalid_for_each(
            &path.field("generateName"),
            generate_name,
            names::dns_subdomain(&masked),
        );
    }
    match metadata.name.as_deref().unwrap_or_default() {
        "" => found.required(&path.field("name"), "name or generateName is required"),
        _ if !generate_name.is_empty() => {}
        name => found.invalid_for_each(&path.field("name"), name, names::dns_subdomain(name)),
    }
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    found.invalid_for_each(&path.field("namespace"), namespace, names::dns_label(namespace));
    let labels = path.field("labels");
    for (key, value) in metadata.labels.iter().flatten() {
        found.invalid_for_each(&labels, key, names::qualified_name(key));
        found.invalid_for_each(&labels, value, names::label_value(value));
    }
    let annotations = path.field("annotations");
    let mut bytes = 0_usize;
    for (key, value) in metadata.annotations.iter().flatten() {
        found.invalid_for_each(&annotations, key, names::qualified_name(&key.to_lowercase()));
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
    }
    if bytes > MAX_ANNOTATION_BYTES {
        found.add(
            &annotations,
            format_args!("Too long: may not be more than {MAX_ANNOTATION_BYTES} bytes"),
        );
    }
}

fn pod_spec(spec: &PodSpec, path: &FieldPath, found: &mut Found) {
    let volume_names = volumes(
        spec.volumes.as_deref().unwrap_or_default(),
        &path.field("volumes"),
        found,
    );
    let containers = path.field("containers");
    if spec.containers.is_empty() {
        found.required(&containers, "");
    }
    let mut container_names = HashSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = containers.index(index);
        if !container.name.is_empty() && !container_names.insert(container.name.as_str()) {
            found.duplicate(&path.field("name"), &container.name);
        }
        container_validation::container(container, &volume_names, &path, found);
    }
    if let Some(policy) = &spec.restart_policy {
        found.one_of(&path.field("restartPolicy"), policy, &["Always", "OnFailure", "Never"]);
    }
    if let Some(policy) = &spec.dns_policy {
        let allowed = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
        found.one_of(&path.field("dnsPolicy"), policy, &allowed);
    }
    let dns_policy = spec.dns_policy.as_deref().unwrap_or_default();
    dns_config(spec.dns_config.as_ref(), dns_policy, &path.field("dnsConfig"), found);
    if let Some(hostname) = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        found.invalid_for_each(&path.field("hostname"), hostname, names::dns_label(hostname));
    }
    host_aliases(
        spec.host_aliases.as_deref().unwrap_or_default(),
        &path.field("hostAliases"),
        found,
    );
    if let Some(context) = &spec.security_context {
        let path = path.field("securityContext");
        ids(
            &[("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)],
            &path,
            found,
        );
        for (index, gid) in context.supplemental_groups.iter().flatten().enumerate() {
            found.between(&path.field("supplementalGroups").index(index), *gid, 0, MAX_ID);
        }
        seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), found);
    }
}

/// Largest user and group id, as Kubernetes has it.
const MAX_ID: i64 = i32::MAX as i64;

pub(super) fn ids(ids: &[(&str, Option<i64>)], path: &FieldPath, found: &mut Found) {
    for (name, id) in ids {
        if let Some(id) = id {
            found.between(&path.field(name), *id, 0, MAX_ID);
        }
    }
}

pub(super) fn seccomp(profile: Option<&SeccompProfile>, path: &FieldPath, found: &mut Found) {
    let Some(profile) = profile else { return };
    let path = path.field("type");
    if profile.type_.is_empty() {
        found.required(&path, "type is required when seccompProfile is set");
    } else {
        found.one_of(&path, &profile.type_, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
}

/// The capabilities are known ones, so that a misspelt one is not just not there.
pub(super) fn capabilities(capabilities: &Capabilities, path: &FieldPath, found: &mut Found) {
    for (field, names) in [("add", &capabilities.add), ("drop", &capabilities.drop)] {
        for (index, name) in names.iter().flatten().enumerate() {
            if super::security::capability(name).is_none() {
                let detail = "must be ALL or the name of a Linux capability without CAP_, such as NET_ADMIN";
                found.invalid(&path.field(field).index(index), name.as_str(), detail);
            }
        }
    }
}

/// Returns the names of the volumes.
fn volumes<'s>(volumes: &'s [Volume], path: &FieldPath, found: &mut Found) -> HashSet<&'s str> {
    let mut names = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = path.field("name");
        if volume.name.is_empty() {
            found.required(&name, "");
        } else {
            found.invalid_for_each(&name, &volume.name, names::dns_label(&volume.name));
            if !names.insert(volume.name.as_str()) {
                found.duplicate(&name, &volume.name);
            }
        }
        // Every field but the name is a kind of volume.
        let written = serde_json::to_value(volume).unwrap_or_default();
        let kinds: BTreeMap<_, _> = written
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| *key != "name")
            .collect();
        for kind in kinds.keys().skip(1) {
            found.add(&path.field(kind), "Forbidden: may not specify more than 1 volume type");
        }
        if let Some(empty_dir) = &volume.empty_dir {
            let path = path.field("emptyDir");
            let medium = empty_dir.medium.as_deref().unwrap_or_default();
            if !medium.starts_with("HugePages") {
                found.one_of(&path.field("medium"), medium, &["", "Memory"]);
            }
            if let Some(limit) = &empty_dir.size_limit {
                container_validation::quantity(&limit.0, &path.field("sizeLimit"), found);
            }
        }
    }
    names
}

fn dns_config(config: Option<&PodDNSConfig>, policy: &str, path: &FieldPath, found: &mut Found) {
    let nameservers = config
        .and_then(|config| config.nameservers.as_deref())
        .unwrap_or_default();
    let field = path.field("nameservers");
    if policy == "None" && nameservers.is_empty() {
        let whole = if config.is_none() { path } else { &field };
        found.required(
            whole,
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    let Some(config) = config else { return };
    if nameservers.len() > MAX_NAMESERVERS {
        let value = format_args!("{nameservers:?}").to_string();
        let detail = format_args!("must not have more than {MAX_NAMESERVERS} nameservers").to_string();
        found.invalid(&field, format_args!("{value}"), detail);
    }
    for (index, nameserver) in nameservers.iter().enumerate() {
        ip(nameserver, &field.index(index), found);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let field = path.field("searches");
    if searches.len() > MAX_SEARCHES || searches.join(" ").chars().count() > MAX_SEARCH_CHARACTERS {
        let detail =
            format!("must not have more than {MAX_SEARCHES} search paths and {MAX_SEARCH_CHARACTERS} characters");
        found.add(&field, format_args!("Invalid value: {detail}"));
    }
    for (index, search) in searches.iter().enumerate() {
        if search != "." {
            let name = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
            found.invalid_for_each(&field.index(index), search, names::dns_subdomain(&name));
        }
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        let field = path.field("options").index(index);
        let name = option.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            found.required(&field, "must not be empty");
        }
        // Into resolv.conf they go as they are.
        for text in [name, option.value.as_deref().unwrap_or_default()] {
            if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
                found.invalid(&field, text, "must not contain white space");
            }
        }
    }
}

fn host_aliases(aliases: &[HostAlias], path: &FieldPath, found: &mut Found) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        ip(&alias.ip, &path.field("ip"), found);
        for (index, hostname) in alias.hostnames.iter().flatten().enumerate() {
            found.invalid_for_each(
                &path.field("hostnames").index(index),
                hostname,
                names::dns_subdomain(hostname),
            );
        }
    }
}

fn ip(address: &str, path: &FieldPath, found: &mut Found) {
    if address.parse::<IpAddr>().is_err() {
        found.invalid(
            path,
            address,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
}
