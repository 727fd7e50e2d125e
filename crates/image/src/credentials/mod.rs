//! Credentials for a registry: from image pull secrets, auth files (podman's and Docker's) and credential helpers. How
//! they are sent to a registry does not belong here.

mod credential;
pub(super) mod error;
mod file;
mod helper;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub(super) use credential::Credential;
pub(super) use file::parse as parse_auth_file;

use super::error::PullError;
use error::CredentialsError;
use file::AuthFile;

/// Maximum size of an auth file or a pull secret, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Maximum number of credentials tried for one image.
const CANDIDATES_MAX: usize = 16;

/// The content of a Secret of type `kubernetes.io/dockerconfigjson`: the value of its key `.dockerconfigjson`.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    name: String,
    docker_config_json: Vec<u8>,
}

impl PullSecret {
    /// A secret with this name, which appears in errors.
    pub fn new(name: impl Into<String>, docker_config_json: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            docker_config_json,
        }
    }
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Where this process looks for credentials.
#[derive(Debug, Clone)]
pub(super) struct CredentialFiles {
    /// Searched in this order; the first file with credentials for an image is used.
    pub paths: Vec<PathBuf>,
    /// The first file must exist, because the user named it.
    pub required: bool,
    /// How long a credential helper may take.
    pub helper_timeout: Duration,
    /// The directory to search for helpers instead of `PATH`.
    pub helper_directory: Option<PathBuf>,
}

impl CredentialFiles {
    /// The files that the environment selects: `REGISTRY_AUTH_FILE` alone, or podman's locations, then Docker's.
    pub fn of_process() -> Self {
        let variable = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let helper_timeout = Duration::from_secs(30);
        if let Some(path) = variable("REGISTRY_AUTH_FILE") {
            return Self {
                paths: vec![path],
                required: true,
                helper_timeout,
                helper_directory: None,
            };
        }
        let home = std::env::home_dir();
        let runtime = variable("XDG_RUNTIME_DIR")
            .map(|directory| directory.join("containers/auth.json"))
            .unwrap_or_else(|| format!("/run/containers/{}/auth.json", nix::unistd::Uid::effective()).into());
        let config = variable("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let docker = variable("DOCKER_CONFIG").or_else(|| home.map(|home| home.join(".docker")));
        let paths = [
            Some(runtime),
            config.map(|directory| directory.join("containers/auth.json")),
            docker.map(|directory| directory.join("config.json")),
        ];
        Self {
            paths: paths.into_iter().flatten().collect(),
            required: false,
            helper_timeout,
            helper_directory: None,
        }
    }

    /// The credentials to try for `repository` of `registry`, in this order: all from the secrets, then those from the
    /// files.
    pub async fn find(
        &self,
        secrets: &[PullSecret],
        registry: &str,
        repository: &str,
    ) -> Result<Vec<Credential>, PullError> {
        let mut found = Vec::new();
        for secret in secrets {
            let origin = format!("the pull secret {:?}", secret.name);
            let parsed = if secret.docker_config_json.len() as u64 <= FILE_MAX_BYTES {
                parse_auth_file(&secret.docker_config_json)
            } else {
                Err(CredentialsError::TooLarge)
            };
            let parsed = parsed.map_err(|why| PullError::Credentials { origin, why })?;
            found.extend(parsed.matching(registry, repository, true));
        }
        for (index, path) in self.paths.iter().enumerate() {
            let origin = path.display().to_string();
            let failed = |why: CredentialsError| PullError::Credentials {
                origin: origin.clone(),
                why,
            };
            let Some(bytes) = file::read(path, FILE_MAX_BYTES).map_err(failed)? else {
                if self.required && index == 0 {
                    return Err(failed(CredentialsError::Missing));
                }
                continue;
            };
            let file = parse_auth_file(&bytes).map_err(failed)?;
            let credential = self.of_file(&file, registry, repository).await?;
            if !credential.is_empty() {
                found.extend(credential);
                break;
            }
        }
        found.truncate(CANDIDATES_MAX);
        Ok(found)
    }

    /// The credentials of one file: from the registry's helper, from an entry, or from the helper for all registries.
    async fn of_file(&self, file: &AuthFile, registry: &str, repository: &str) -> Result<Vec<Credential>, PullError> {
        if let Some(helper) = file.helper(registry) {
            return Ok(self.ask(helper, registry).await?.into_iter().collect());
        }
        let mut written = file.matching(registry, repository, false);
        written.truncate(1);
        match &file.creds_store {
            Some(helper) if written.is_empty() => Ok(self.ask(helper, registry).await?.into_iter().collect()),
            _ => Ok(written),
        }
    }

    async fn ask(&self, helper: &str, registry: &str) -> Result<Option<Credential>, PullError> {
        let answer = helper::get(helper, registry, self.helper_directory.as_deref(), self.helper_timeout);
        answer.await.map_err(|why| PullError::Credentials {
            origin: format!("docker-credential-{helper}"),
            why: why.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn password(username: &str, password: &str) -> Credential {
        Credential::Password {
            username: username.into(),
            password: password.into(),
        }
    }

    fn files(directory: &Path, names: &[&str]) -> CredentialFiles {
        CredentialFiles {
            paths: names.iter().map(|name| directory.join(name)).collect(),
            required: false,
            helper_timeout: Duration::from_secs(20),
            helper_directory: Some(directory.to_path_buf()),
        }
    }

    fn helper(directory: &Path, name: &str, script: &str) {
        let path = directory.join(format!("docker-credential-{name}"));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn why(error: &PullError) -> String {
        error.to_string()
    }

    #[tokio::test]
    async fn secrets_precede_files_and_the_first_file_with_a_match_wins() {
        let directory = tempfile::tempdir().unwrap();
        // "dTpw" is u:p, "dTI6cDI=" is u2:p2, "dTM6cDM=" is u3:p3.
        fs::write(
            directory.path().join("a"),
            r#"{"auths":{"other.example":{"auth":"dTpw"}}}"#,
        )
        .unwrap();
        fs::write(
            directory.path().join("b"),
            r#"{"auths":{"r.example":{"auth":"dTI6cDI="}}}"#,
        )
        .unwrap();
        fs::write(directory.path().join("c"), r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#).unwrap();
        let files = files(directory.path(), &["none", "a", "b", "c"]);
        let secret = PullSecret::new("s", br#"{"auths":{"*.example":{"auth":"dTM6cDM="}}}"#.to_vec());
        assert_eq!(
            files.find(&[secret], "r.example", "app").await.unwrap(),
            [password("u3", "p3"), password("u2", "p2")]
        );
        assert_eq!(files.find(&[], "unknown.example", "app").await.unwrap(), []);
    }

    #[tokio::test]
    async fn helpers_are_asked_for_their_registry_or_for_all() {
        let directory = tempfile::tempdir().unwrap();
        helper(
            directory.path(),
            "one",
            r#"read server; echo "{\"Username\":\"<token>\",\"Secret\":\"$1 $server\"}""#,
        );
        helper(
            directory.path(),
            "all",
            r#"read server; echo "{\"Username\":\"u\",\"Secret\":\"$server\"}""#,
        );
        fs::write(
            directory.path().join("config.json"),
            r#"{"credHelpers":{"r.example":"one"},"credsStore":"all","auths":{"w.example":{"auth":"dTpw"},"r.example":{}}}"#,
        )
        .unwrap();
        let files = files(directory.path(), &["config.json"]);
        let find = async |registry: &str| files.find(&[], registry, "app").await.unwrap();
        assert_eq!(
            find("r.example").await,
            [Credential::IdentityToken("get r.example".into())]
        );
        assert_eq!(find("w.example").await, [password("u", "p")]);
        assert_eq!(find("docker.io").await, [password("u", "https://index.docker.io/v1/")]);
    }

    #[tokio::test]
    async fn a_failing_helper_is_an_error_but_one_without_credentials_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.json");
        let mut files = files(directory.path(), &["config.json"]);
        for (name, script, expected) in [
            (
                "nothing",
                "echo 'credentials not found in native keychain'; exit 1",
                None,
            ),
            (
                "fails",
                "echo 'the keyring is locked'; exit 1",
                Some("the keyring is locked"),
            ),
            ("silent", "exit 3", Some("exit status: 3")),
            ("rubbish", "echo '<html>'", Some("did not write credentials as JSON")),
            ("floods", "exec cat /dev/zero", Some("longer than")),
            ("../evil", "", Some("invalid credential helper name")),
            ("missing", "", Some("cannot be started")),
        ] {
            if !script.is_empty() {
                helper(directory.path(), name, script);
            }
            fs::write(&config, format!(r#"{{"credsStore":"{name}"}}"#)).unwrap();
            let found = files.find(&[], "r.example", "app").await;
            match expected {
                None => assert_eq!(found.unwrap(), []),
                Some(expected) => {
                    let error = found.expect_err(name);
                    assert!(why(&error).contains(expected), "{name}: {error}");
                    assert!(why(&error).contains(name), "{name}: {error}");
                }
            }
        }
        helper(directory.path(), "hangs", "exec sleep 1000");
        fs::write(&config, r#"{"credsStore":"hangs"}"#).unwrap();
        files.helper_timeout = Duration::from_millis(50);
        let error = files.find(&[], "r.example", "app").await.unwrap_err();
        assert!(why(&error).contains("50 ms"), "{error}");
    }

    #[tokio::test]
    async fn malformed_files_and_secrets_are_errors_that_name_them() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("broken"), "{").unwrap();
        let mut files = files(directory.path(), &["broken"]);
        let error = files.find(&[], "r.example", "app").await.unwrap_err();
        assert!(why(&error).contains("/broken"), "{error}");
        files.paths = vec![directory.path().join("absent")];
        let secret = PullSecret::new("regcred", b"{\"auths\": 1}".to_vec());
        assert!(!format!("{secret:?}").contains("auths"));
        let error = files.find(&[secret], "r.example", "app").await.unwrap_err();
        assert!(why(&error).contains("\"regcred\""), "{error}");
        files.required = true;
        let error = files.find(&[], "r.example", "app").await.unwrap_err();
        assert!(why(&error).contains("REGISTRY_AUTH_FILE"), "{error}");
    }
}
