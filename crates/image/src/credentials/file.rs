//! The format of Docker's `config.json`, the `auth.json` of podman and related tools, and Secrets of type
//! `kubernetes.io/dockerconfigjson`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::credential::Credential;
use super::error::{CredentialsError, EntryError};

/// Names of Docker Hub.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    /// The helper for all registries.
    #[serde(default, deserialize_with = "not_empty")]
    pub(super) creds_store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

fn not_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

/// Reads a file of at most `max_bytes`; `None` if it does not exist.
pub(super) fn read(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, CredentialsError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CredentialsError::Read(error)),
    };
    let mut bytes = Vec::new();
    file.take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(CredentialsError::Read)?;
    if bytes.len() as u64 > max_bytes {
        return Err(CredentialsError::TooLarge);
    }
    Ok(Some(bytes))
}

/// Parses an auth file with all its entries. The error quotes nothing from the file, because it contains secrets.
pub(crate) fn parse(bytes: &[u8]) -> Result<AuthFile, CredentialsError> {
    let file: AuthFile = serde_json::from_slice(bytes).map_err(|error| {
        use serde_json::error::Category;
        let what = match error.classify() {
            Category::Data => "an entry has the wrong type",
            Category::Eof => "it is truncated",
            Category::Io | Category::Syntax => "it is not valid JSON",
        };
        CredentialsError::Format {
            what,
            line: error.line(),
            column: error.column(),
        }
    })?;
    for (key, entry) in &file.auths {
        entry
            .credential()
            .map_err(|why| CredentialsError::Entry { key: key.clone(), why })?;
    }
    Ok(file)
}

impl AuthFile {
    /// The helper for this registry only.
    pub(super) fn helper(&self, registry: &str) -> Option<&str> {
        let found = self
            .cred_helpers
            .iter()
            .find(|(key, _)| specificity(key, registry, "", false) == Some(0));
        found.map(|(_, helper)| helper.as_str())
    }

    /// The credentials written in the file for a repository, the most specific entry first. In Secrets, `*` may stand
    /// for parts of host names.
    pub(crate) fn matching(&self, registry: &str, repository: &str, wildcards: bool) -> Vec<Credential> {
        let mut found: Vec<_> = self
            .auths
            .iter()
            .filter_map(|(key, entry)| {
                let specificity = specificity(key, registry, repository, wildcards)?;
                Some((specificity, entry.credential().ok().flatten()?))
            })
            .collect();
        found.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
        found.into_iter().map(|(_, credential)| credential).collect()
    }
}

impl Entry {
    /// `None` if the entry is empty: its credentials are in a helper.
    fn credential(&self) -> Result<Option<Credential>, EntryError> {
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(self.registrytoken.clone())));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken.clone())));
        }
        if self.auth.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Ok((!username.is_empty()).then_some(Credential::Password { username, password }));
        }
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let decoded = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(self.auth.trim());
        let text = decoded.map_err(|_| EntryError::NotBase64)?;
        let text = String::from_utf8(text).map_err(|_| EntryError::NotText)?;
        let (username, password) = text.split_once(':').ok_or(EntryError::NotAPair)?;
        // Docker pads passwords with zeros.
        let password = password.trim_end_matches('\0');
        if username
            .chars()
            .chain(password.chars())
            .any(|c| matches!(c, '\0' | '\r' | '\n'))
        {
            return Err(EntryError::ForbiddenCharacters);
        }
        Ok(Some(Credential::Password {
            username: username.to_owned(),
            password: password.to_owned(),
        }))
    }
}

/// How well a key matches: the length of the path that it names, or `None` if it does not match. Keys are hosts, hosts
/// with the start of a repository, or URLs, as old versions of Docker wrote them.
fn specificity(key: &str, registry: &str, repository: &str, wildcards: bool) -> Option<usize> {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let is_hub = |host: &str| DOCKER_HUB.contains(&host);
    if !(host == registry || is_hub(host) && is_hub(registry) || wildcards && host_fits(host, registry)) {
        return None;
    }
    let fits = path.is_empty()
        || repository
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    fits.then_some(path.len())
}

/// Kubernetes' rule: equal ports and the same number of labels, each equal or matching with `*` for any characters.
fn host_fits(pattern: &str, host: &str) -> bool {
    let split = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), port.to_owned()),
        None => (text.to_owned(), String::new()),
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    let (patterns, labels): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern_port == port
        && patterns.len() == labels.len()
        && patterns
            .iter()
            .zip(labels)
            .all(|(pattern, label)| label_fits(pattern, label))
}

fn label_fits(pattern: &str, label: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(mut label) = label.strip_prefix(start) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return label.ends_with(part);
        }
        let Some(at) = label.find(part) else { return false };
        label = label.get(at + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usernames(json: &str, registry: &str, repository: &str, wildcards: bool) -> Vec<String> {
        let found = parse(json.as_bytes())
            .unwrap()
            .matching(registry, repository, wildcards);
        let name = |credential| match credential {
            Credential::Password { username, .. } => username,
            other => format!("{other:?}"),
        };
        found.into_iter().map(name).collect()
    }

    #[test]
    fn the_most_specific_entry_wins_and_partial_segments_do_not_match() {
        let json = r#"{"auths":{
            "r.example":{"username":"host","password":"p"},
            "r.example/team":{"username":"team","password":"p"},
            "r.example/team/app":{"username":"app","password":"p"},
            "r.example/te":{"username":"half","password":"p"},
            "r.example:5000":{"username":"port","password":"p"}}}"#;
        assert_eq!(usernames(json, "r.example", "team/app", false), ["app", "team", "host"]);
        assert_eq!(
            usernames(json, "r.example", "team/application", false),
            ["team", "host"]
        );
        assert_eq!(usernames(json, "r.example:5000", "team/app", false), ["port"]);
        assert!(usernames(json, "r.example.evil", "team/app", true).is_empty());
    }

    #[test]
    fn all_docker_hub_names_and_legacy_urls_match() {
        for key in [
            "docker.io",
            "https://index.docker.io/v1/",
            "registry-1.docker.io",
            "http://docker.io/v2/",
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"dTpw"}}}}}}"#);
            assert_eq!(usernames(&json, "docker.io", "library/nginx", false), ["u"], "{key}");
        }
    }

    #[test]
    fn wildcards_match_parts_of_host_names_in_secrets_only() {
        let json = r#"{"auths":{"*.reg*y.example:5000":{"auth":"dTpw"}}}"#;
        assert_eq!(usernames(json, "a.registry.example:5000", "x", true), ["u"]);
        for registry in [
            "a.registry.example",
            "registry.example:5000",
            "a.b.registry.example:5000",
            "a.reg.example:5000",
        ] {
            assert!(usernames(json, registry, "x", true).is_empty(), "{registry}");
        }
        assert!(usernames(json, "a.registry.example:5000", "x", false).is_empty());
    }

    #[test]
    fn tokens_passwords_and_padding_are_parsed() {
        let one = |entry: &str| {
            let json = format!(r#"{{"auths":{{"r.example":{entry}}}}}"#);
            parse(json.as_bytes()).map(|file| file.matching("r.example", "x", false))
        };
        let password = |password: &str| {
            vec![Credential::Password {
                username: "u".into(),
                password: password.into(),
            }]
        };
        assert_eq!(one(r#"{"auth":"dTpwOnEA"}"#).unwrap(), password("p:q"));
        assert_eq!(one(r#"{"auth":"dTpwcQ"}"#).unwrap(), password("pq"), "without padding");
        assert_eq!(one(r#"{"username":"u","password":"p"}"#).unwrap(), password("p"));
        assert_eq!(
            one(r#"{"auth":"dTpw","identitytoken":"t"}"#).unwrap(),
            [Credential::IdentityToken("t".into())]
        );
        assert_eq!(
            one(r#"{"registrytoken":"t"}"#).unwrap(),
            [Credential::RegistryToken("t".into())]
        );
        assert_eq!(one("{}").unwrap(), []);
        for entry in [
            r#"{"auth":"!"}"#,
            r#"{"auth":"dQ=="}"#,
            r#"{"auth":"/////w=="}"#,
            r#"{"auth":"dTpwCnE="}"#,
            "1",
        ] {
            assert!(one(entry).is_err(), "{entry}");
        }
    }

    proptest! {
        #[test]
        fn any_file_and_key_are_parsed_or_refused_without_a_panic(text in "\\PC{0,200}", key in "\\PC{0,40}", registry in "\\PC{0,40}") {
            let _ = parse(text.as_bytes());
            let _ = specificity(&key, &registry, "a/b", true);
            let json = serde_json::json!({"auths": {key: {"auth": text}}}).to_string();
            let _ = parse(json.as_bytes()).map(|file| file.matching(&registry, "a/b", true));
        }

        #[test]
        fn a_host_matches_itself_and_one_wildcard_per_label(labels in prop::collection::vec("[a-z]{1,5}", 1..5)) {
            let host = labels.join(".");
            prop_assert!(host_fits(&host, &host));
            prop_assert!(host_fits(&vec!["*"; labels.len()].join("."), &host));
            prop_assert!(!host_fits(&vec!["*"; labels.len() + 1].join("."), &host));
        }
    }
}
