//! The host's registry settings: mirrors, insecure and blocked registries, from `registries.conf` (version 2), as read
//! by podman, CRI-O and skopeo. Settings that do not concern fetching images (short names, signatures) are ignored.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::bounded_file;
use super::error::ConfigurationError;
use crate::error::PullError;
use crate::reference::ImageReference;

/// Maximum size of a settings file, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;
const SYSTEM_FILE: &str = "/etc/containers/registries.conf";
const SYSTEM_DIRECTORY: &str = "/etc/containers/registries.conf.d";

/// All settings: of the main file, then of the files in its directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    registries: Vec<Entry>,
}

/// A place from which an image can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Host, and port if any.
    pub host: String,
    pub repository: String,
    /// Allows http, and https with any certificate.
    pub insecure: bool,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Entry>,
    /// Version 1 of the format.
    registries: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: PullFromMirror,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

impl Settings {
    /// Reads the files of this host and user: `CONTAINERS_REGISTRIES_CONF`, or the user's file, or the host's with its
    /// directory.
    pub fn of_process() -> Result<Self, PullError> {
        if let Some(path) = std::env::var_os("CONTAINERS_REGISTRIES_CONF").filter(|path| !path.is_empty()) {
            return Self::read(Path::new(&path), None);
        }
        let users = std::env::home_dir().map(|home| home.join(".config/containers/registries.conf"));
        let file = users.filter(|path| path.exists()).unwrap_or_else(|| SYSTEM_FILE.into());
        Self::read(&file, Some(Path::new(SYSTEM_DIRECTORY)))
    }

    /// Reads a main file, which may be absent, and the files `*.conf` of a directory, sorted by name.
    fn read(main: &Path, directory: Option<&Path>) -> Result<Self, PullError> {
        let mut paths = vec![main.to_path_buf()];
        if let Some(entries) = directory.and_then(|directory| std::fs::read_dir(directory).ok()) {
            let mut more: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            more.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            more.sort();
            paths.extend(more);
        }
        let mut settings = Self::default();
        for path in paths {
            let failed = |why: ConfigurationError| PullError::Configuration {
                path: path.clone(),
                why,
            };
            let bytes = match bounded_file::read(&path, FILE_MAX_BYTES) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(ConfigurationError::Read(error))),
            };
            settings.add(&bytes).map_err(failed)?;
        }
        Ok(settings)
    }

    /// Adds the settings of a file. They replace earlier settings of the same prefix.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), ConfigurationError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ConfigurationError::NotText)?;
        let file: File = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            ConfigurationError::Format {
                line: before.matches('\n').count() + 1,
                message: error.message().to_owned(),
            }
        })?;
        if file.registries.is_some() {
            return Err(ConfigurationError::Version1);
        }
        for mut entry in file.registry {
            if entry.prefix.is_empty() {
                entry.prefix.clone_from(&entry.location);
            }
            entry.prefix = entry.prefix.trim_end_matches('/').to_owned();
            if entry.prefix.is_empty() {
                return Err(ConfigurationError::NoPrefix);
            }
            let locations = entry.mirror.iter().map(|mirror| &mirror.location);
            for location in locations.chain([&entry.location]) {
                if location.contains("://") || location.chars().any(char::is_whitespace) {
                    return Err(ConfigurationError::Location(location.clone()));
                }
            }
            if entry.mirror.iter().any(|mirror| mirror.location.is_empty()) {
                return Err(ConfigurationError::MirrorWithoutLocation { prefix: entry.prefix });
            }
            self.registries.retain(|known| known.prefix != entry.prefix);
            self.registries.push(entry);
        }
        Ok(())
    }

    /// Where to fetch an image: mirrors first, then the registry itself.
    pub fn places(&self, reference: &ImageReference) -> Result<Vec<Place>, PullError> {
        let name = reference.to_string();
        let fitting = self.registries.iter().filter(|entry| entry.fits(&name));
        let Some(entry) = fitting.max_by_key(|entry| entry.prefix.len()) else {
            return Ok(vec![Place {
                host: reference.registry().to_owned(),
                repository: reference.repository().to_owned(),
                insecure: false,
            }]);
        };
        if entry.blocked {
            return Err(PullError::Blocked {
                prefix: entry.prefix.clone(),
            });
        }
        let by_digest = reference.digest().is_some();
        let mirrors = entry.mirror.iter().filter(|mirror| match mirror.pull_from_mirror {
            PullFromMirror::All => by_digest || !entry.mirror_by_digest_only,
            PullFromMirror::DigestOnly => by_digest,
            PullFromMirror::TagOnly => !by_digest,
        });
        let mut places = Vec::new();
        for (location, insecure) in mirrors
            .map(|mirror| (&mirror.location, mirror.insecure))
            .chain([(&entry.location, entry.insecure)])
        {
            places.push(place(&entry.rewrite(&name, location), insecure)?);
        }
        Ok(places)
    }
}

impl Entry {
    /// Whether a full image name matches the prefix, which may be `*.DOMAIN` for all hosts of a domain.
    fn fits(&self, name: &str) -> bool {
        if let Some(domain) = self.prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or_default();
            return domain.starts_with('.') && host.len() > domain.len() && host.ends_with(domain);
        }
        name.strip_prefix(&self.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']) && !is_port(&self.prefix, rest))
    }

    /// The name with the prefix replaced with a location.
    fn rewrite(&self, name: &str, location: &str) -> String {
        let rest = if self.prefix.starts_with('*') {
            name.find('/').and_then(|at| name.get(at..))
        } else {
            name.get(self.prefix.len()..)
        };
        match rest {
            Some(rest) if !location.is_empty() => format!("{}{rest}", location.trim_end_matches('/')),
            _ => name.to_owned(),
        }
    }
}

/// Whether the text after a prefix that is only a host is a port.
fn is_port(prefix: &str, rest: &str) -> bool {
    rest.starts_with(':') && !prefix.contains('/')
}

/// Splits a rewritten name. It becomes part of URLs, so it is checked like a name from the user.
fn place(name: &str, insecure: bool) -> Result<Place, PullError> {
    let (host, rest) = name.split_once('/').unwrap_or((name, ""));
    // Unlike in a user's name, the first part is a host even without a dot.
    let path = ImageReference::parse(&format!("host.invalid/{rest}"));
    let (Ok(path), true) = (path, is_host(host)) else {
        return Err(PullError::Configuration {
            path: SYSTEM_FILE.into(),
            why: ConfigurationError::NotAName(name.to_owned()),
        });
    };
    Ok(Place {
        host: host.to_owned(),
        repository: path.repository().to_owned(),
        insecure,
    })
}

fn is_host(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "443"));
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !host.is_empty() && host.bytes().all(in_host) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(text: &str) -> Result<Settings, ConfigurationError> {
        let mut settings = Settings::default();
        settings.add(text.as_bytes()).map(|()| settings)
    }

    fn places(text: &str, name: &str) -> Vec<String> {
        let places = settings(text)
            .unwrap()
            .places(&ImageReference::parse(name).unwrap())
            .unwrap();
        let text = |place: Place| {
            let mark = if place.insecure { " insecure" } else { "" };
            format!("{}/{}{mark}", place.host, place.repository)
        };
        places.into_iter().map(text).collect()
    }

    #[test]
    fn an_image_without_settings_comes_from_its_registry() {
        assert_eq!(places("", "nginx"), ["docker.io/library/nginx"]);
        assert_eq!(
            places("unqualified-search-registries = ['a']", "r.example:5/a/b:c"),
            ["r.example:5/a/b"]
        );
    }

    #[test]
    fn the_longest_prefix_decides_and_mirrors_come_first() {
        let text = r#"
            [[registry]]
            location = "docker.io"
            [[registry.mirror]]
            location = "mirror.example/hub"
            insecure = true
            [[registry]]
            prefix = "docker.io/library"
            location = "own.example:5000/official"
            insecure = true
        "#;
        assert_eq!(
            places(text, "some/app"),
            ["mirror.example/hub/some/app insecure", "docker.io/some/app"]
        );
        assert_eq!(places(text, "nginx:1"), ["own.example:5000/official/nginx insecure"]);
        assert_eq!(places(text, "docker.io.example/a"), ["docker.io.example/a"]);
        assert_eq!(
            places("[[registry]]\nlocation='r.example'\ninsecure=true", "r.example:5000/a"),
            ["r.example:5000/a"]
        );
    }

    #[test]
    fn mirrors_may_be_for_digests_or_tags_only() {
        let text = r#"
            [[registry]]
            location = "r.example"
            [[registry.mirror]]
            location = "d.example"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "t.example"
            pull-from-mirror = "tag-only"
        "#;
        let digest = format!("r.example/a@sha256:{}", "a1".repeat(32));
        assert_eq!(places(text, "r.example/a"), ["t.example/a", "r.example/a"]);
        assert_eq!(places(text, &digest), ["d.example/a", "r.example/a"]);
        let text =
            "[[registry]]\nlocation='r.example'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.example'";
        assert_eq!(places(text, "r.example/a"), ["r.example/a"]);
        assert_eq!(places(text, &digest), ["m.example/a", "r.example/a"]);
    }

    #[test]
    fn a_wildcard_matches_the_hosts_of_a_domain() {
        let text = "[[registry]]\nprefix='*.corp.example'\nlocation='proxy.example/corp'";
        assert_eq!(places(text, "a.corp.example/x/y"), ["proxy.example/corp/x/y"]);
        assert_eq!(places(text, "corp.example/x"), ["corp.example/x"]);
        assert_eq!(
            places(
                "[[registry]]\nprefix='*.corp.example'\ninsecure=true",
                "a.corp.example/x"
            ),
            ["a.corp.example/x insecure"]
        );
    }

    #[test]
    fn a_location_starts_with_a_host_even_without_a_dot() {
        assert_eq!(
            places("[[registry]]\nprefix='docker.io'\nlocation='cache/hub'", "a/b"),
            ["cache/hub/a/b"]
        );
        for location in ["ca_che", "a:b", "UPPER/Case", "a?b", "a/../b"] {
            let text = format!("[[registry]]\nprefix='docker.io'\nlocation='{location}'");
            let settings = settings(&text).unwrap();
            assert!(
                settings.places(&ImageReference::parse("a/b").unwrap()).is_err(),
                "{location}"
            );
        }
    }

    #[test]
    fn blocked_registries_are_refused_by_their_prefix() {
        let settings = settings("[[registry]]\nprefix='evil.example/bad'\nblocked=true").unwrap();
        let error = settings
            .places(&ImageReference::parse("evil.example/bad/a").unwrap())
            .unwrap_err();
        assert!(error.to_string().contains("evil.example/bad"), "{error}");
        assert!(
            settings
                .places(&ImageReference::parse("evil.example/badly/a").unwrap())
                .is_ok()
        );
    }

    #[test]
    fn invalid_settings_are_refused_with_their_line() {
        for (text, expected) in [
            ("[[registry]]\nlocation = 5", "line 2"),
            ("\n\n[[registry", "line 3"),
            ("[registries.search]\nregistries = []", "version 1"),
            ("[[registry]]\ninsecure = true", "neither prefix nor location"),
            ("[[registry]]\nlocation='https://a.example'", "https://a.example"),
            (
                "[[registry]]\nlocation='a.example'\n[[registry.mirror]]\ninsecure=true",
                "no location",
            ),
            (
                "[[registry]]\nlocation='a'\n[[registry.mirror]]\nlocation='b'\npull-from-mirror='never'",
                "line 5",
            ),
        ] {
            let error = settings(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn later_files_override_earlier_ones_per_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("registries.conf");
        let more = directory.path().join("d");
        std::fs::create_dir(&more).unwrap();
        std::fs::write(
            &main,
            "[[registry]]\nlocation='r.example'\n[[registry]]\nlocation='s.example'\ninsecure=true",
        )
        .unwrap();
        std::fs::write(more.join("1.conf"), "[[registry]]\nlocation='r.example'\nblocked=true").unwrap();
        std::fs::write(more.join("2.conf"), "[[registry]]\nlocation='r.example'\ninsecure=true").unwrap();
        std::fs::write(more.join("3.txt"), "[[[").unwrap();
        let settings = Settings::read(&main, Some(&more)).unwrap();
        for name in ["r.example/a", "s.example/a"] {
            assert!(settings.places(&ImageReference::parse(name).unwrap()).unwrap()[0].insecure);
        }
        std::fs::write(more.join("4.conf"), "x").unwrap();
        let error = Settings::read(&main, Some(&more)).unwrap_err().to_string();
        assert!(error.contains("d/4.conf"), "{error}");
        assert_eq!(
            Settings::read(Path::new("/nonexistent/registries.conf"), None).unwrap(),
            Settings::default()
        );
    }

    proptest! {
        #[test]
        fn any_text_and_rewriting_are_handled_without_a_panic(text in "\\PC{0,100}", prefix in "[a-z.*:/]{0,12}", location in "\\PC{0,12}") {
            let _ = settings(&text);
            let entry = format!("[[registry]]\nprefix={prefix:?}\nlocation={location:?}");
            if let Ok(settings) = settings(&entry) {
                let _ = settings.places(&ImageReference::parse("a.b:1/c/d:e").unwrap());
            }
        }
    }
}
