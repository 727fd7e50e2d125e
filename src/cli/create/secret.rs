//! `microkube create secret`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use microkube_manifest::names;

use super::super::failure::Failure;
use super::docker_config::{self, RegistryArgs};
use super::generated::{self, GeneratedArgs, named};
use super::sources::{Add, FileSourceArgs, Owner, SourceArgs, Sources, read};
use super::{key_pair, name_hash};

/// Create a secret of a type
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube create secret generic login --from-literal=user=me --from-file=password\n  microkube create secret tls site \
                  --cert=site.crt --key=site.key"
)]
pub(super) struct SecretArgs {
    #[command(subcommand)]
    kind: SecretKind,
}

#[derive(Debug, clap::Subcommand)]
enum SecretKind {
    Generic(GenericArgs),
    DockerRegistry(DockerRegistryArgs),
    Tls(TlsArgs),
}

/// Create a secret from files, directories or literal values
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube create secret generic login --from-literal=user=me --from-file=password\n  microkube create secret generic \
                  key --type=kubernetes.io/ssh-auth --from-file=ssh-privatekey=id_ed25519"
)]
struct GenericArgs {
    /// Name of the secret
    name: String,
    #[command(flatten)]
    sources: SourceArgs,
    /// Type of the secret [default: Opaque]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Create a secret with credentials for a registry
///
/// Pods refer to it in spec.imagePullSecrets to pull images.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube create secret docker-registry hub --docker-username=me --docker-password=\"$(cat token)\"\n  microkube \
                  create secret docker-registry hub --from-file=.dockerconfigjson=$HOME/.docker/config.json"
)]
struct DockerRegistryArgs {
    /// Name of the secret
    name: String,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    files: FileSourceArgs,
    #[command(flatten)]
    common: CommonArgs,
}

/// Create a secret with a certificate and its private key
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube create secret tls site --cert=site.crt --key=site.key")]
struct TlsArgs {
    /// Name of the secret
    name: String,
    /// File with the certificate in PEM, followed by intermediate certificates
    #[arg(long, value_name = "PATH")]
    cert: String,
    /// File with the private key in PEM
    #[arg(long, value_name = "PATH")]
    key: String,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Append a hash of the secret to its name
    #[arg(long)]
    append_hash: bool,
    #[command(flatten)]
    generated: GeneratedArgs,
}

pub(super) fn run(args: SecretArgs) -> Result<ExitCode, Failure> {
    let mut sources = Sources::default();
    let (secret, common) = match &args.kind {
        SecretKind::Generic(args) => (generic(args, &mut sources), &args.common),
        SecretKind::DockerRegistry(args) => (docker_registry(args, &mut sources), &args.common),
        SecretKind::Tls(args) => (tls(args), &args.common),
    };
    let mut secret = secret.map_err(Failure::from)?;
    if common.append_hash {
        append_hash(&mut secret);
    }
    let stdin = sources.consumed_stdin.as_deref();
    // Without a colon, as in kubectl.
    generated::create(secret.into(), &common.generated, Some("failed to create secret"), stdin)
}

fn generic(args: &GenericArgs, sources: &mut Sources) -> anyhow::Result<Secret> {
    args.sources.check()?;
    let mut secret = new(&args.name, args.kind.as_deref());
    filled(&mut secret, |add| {
        sources.literals(&args.sources.from_literal, Owner::Secret, &mut *add)?;
        sources.files(&args.sources.files.from_file, &mut *add)?;
        sources.env_files(&args.sources.from_env_file, Owner::Secret, add)
    })?;
    Ok(secret)
}

fn docker_registry(args: &DockerRegistryArgs, sources: &mut Sources) -> anyhow::Result<Secret> {
    let mut secret = new(&args.name, Some("kubernetes.io/dockerconfigjson"));
    let content = docker_config::content(&args.registry);
    match content {
        Some(content) if args.files.from_file.is_empty() => {
            filled(&mut secret, |add| add(".dockerconfigjson", content.into_bytes()))?;
        }
        _ if args.files.from_file.is_empty() => bail!(
            "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required"
        ),
        _ => filled(&mut secret, |add| sources.files(&args.files.from_file, add))?,
    }
    Ok(secret)
}

fn tls(args: &TlsArgs) -> anyhow::Result<Secret> {
    if args.key.is_empty() || args.cert.is_empty() {
        bail!("key and cert must be specified");
    }
    let file = |path: &str| read(path).with_context(|| format!("Cannot read file {path}"));
    let (certificate, key) = (file(&args.cert)?, file(&args.key)?);
    key_pair::check(&certificate, &key)?;
    let mut secret = new(&args.name, Some("kubernetes.io/tls"));
    filled(&mut secret, |add| {
        add("tls.crt", certificate)?;
        add("tls.key", key)
    })?;
    Ok(secret)
}

fn new(name: &str, kind: Option<&str>) -> Secret {
    Secret {
        metadata: named(name),
        type_: kind.filter(|kind| !kind.is_empty()).map(str::to_owned),
        ..Secret::default()
    }
}

/// Puts values into the secret.
fn filled(secret: &mut Secret, read: impl FnOnce(Add<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut data = BTreeMap::new();
    read(&mut |key, value| {
        let errors = names::config_map_key(key);
        if !errors.is_empty() {
            bail!("{key:?} is not valid key name for a Secret {}", errors.join(";"));
        }
        if data.contains_key(key) {
            bail!("cannot add key {key}, another key by that name already exists");
        }
        data.insert(key.to_owned(), ByteString(value));
        Ok(())
    })?;
    secret.data = Some(data).filter(|data| !data.is_empty());
    Ok(())
}

fn append_hash(secret: &mut Secret) {
    let hash = name_hash::of_secret(secret);
    let name = secret.metadata.name.take().unwrap_or_default();
    secret.metadata.name = Some(format!("{name}-{hash}"));
}

#[cfg(test)]
mod tests {
    use super::generated::tests::printed;
    use super::*;

    fn generate(words: &[&str]) -> anyhow::Result<Secret> {
        #[derive(Debug, clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: SecretArgs,
        }
        let words = ["secret"].iter().chain(words);
        let cli = <Cli as clap::Parser>::try_parse_from(words)?;
        assert!(!format!("{cli:?}").contains("hidden"), "{cli:?}");
        match &cli.args.kind {
            SecretKind::Generic(args) => generic(args, &mut Sources::default()),
            SecretKind::DockerRegistry(args) => docker_registry(args, &mut Sources::default()),
            SecretKind::Tls(args) => tls(args),
        }
    }

    fn yaml(words: &[&str]) -> String {
        printed(&generate(words).unwrap().into(), &["--dry-run=client", "-o", "yaml"])
    }

    #[test]
    fn generic_secrets_are_printed_as_by_kubectl() {
        assert_eq!(
            yaml(&[
                "generic",
                "login",
                "--from-literal=password=hidden",
                "--from-literal=user="
            ]),
            "\
apiVersion: v1
data:
  password: aGlkZGVu
  user: \"\"
kind: Secret
metadata:
  name: login
"
        );
        assert_eq!(
            yaml(&["generic", "empty", "--type=my-type"]),
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: empty\ntype: my-type\n"
        );
    }

    #[test]
    fn registry_secrets_have_the_configuration_of_docker() {
        let words = [
            "docker-registry",
            "hub",
            "--docker-username=me",
            "--docker-password=hidden<",
            "--docker-email=a@b",
        ];
        let secret = generate(&words).unwrap();
        assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/dockerconfigjson"));
        let content = &secret.data.unwrap()[".dockerconfigjson"].0;
        assert_eq!(
            String::from_utf8_lossy(content),
            "{\"auths\":{\"https://index.docker.io/v1/\":{\"username\":\"me\",\"password\":\"hidden\\u003c\",\"email\":\"a@b\",\
             \"auth\":\"bWU6aGlkZGVuPA==\"}}}"
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, "{}").unwrap();
        let file = format!("--from-file=.dockerconfigjson={}", path.display());
        let secret = generate(&["docker-registry", "hub", &file]).unwrap();
        assert_eq!(secret.data.unwrap()[".dockerconfigjson"].0, b"{}");
    }

    #[test]
    fn key_pairs_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let [first, second] = [(); 2].map(|()| rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap());
        let certificate = write("a.crt", &first.cert.pem());
        let keys =
            [("a.key", &first), ("b.key", &second)].map(|(name, pair)| write(name, &pair.signing_key.serialize_pem()));
        let tls = |certificate: &str, key: &str| {
            let words = [format!("--cert={certificate}"), format!("--key={key}")];
            generate(&["tls", "site", &words[0], &words[1]]).map_err(|error| format!("{error:#}"))
        };
        let secret = tls(&certificate, &keys[0]).unwrap();
        assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
        assert_eq!(secret.data.unwrap().keys().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
        for (certificate, key, message) in [
            (&certificate, &keys[1], "tls: private key does not match public key"),
            (
                &keys[0],
                &keys[0],
                "tls: failed to find any PEM data in certificate input",
            ),
            (
                &certificate,
                &certificate,
                "tls: failed to find any PEM data in key input",
            ),
        ] {
            let error = tls(certificate, key).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let none = write("none", "");
        std::fs::remove_file(&none).unwrap();
        assert!(
            tls(&certificate, &none)
                .unwrap_err()
                .starts_with(&format!("Cannot read file {none}: "))
        );
    }

    #[test]
    fn wrong_arguments_are_refused_in_kubectls_words() {
        for (words, message) in [
            (
                &["generic", "a", "--from-literal=x=hidden", "--from-literal=x=2"][..],
                "cannot add key x, another key by that name already exists",
            ),
            (
                &["generic", "a", "--from-file=x", "--from-env-file=env"],
                "from-env-file cannot be combined with from-file or from-literal",
            ),
            (
                &["docker-registry", "a", "--docker-username=me"],
                "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required",
            ),
        ] {
            assert_eq!(generate(words).unwrap_err().to_string(), message);
        }
        let error = generate(&["generic", "a", "--from-literal=a b=hidden"])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("\"a b\" is not valid key name for a Secret a valid config key must consist of"),
            "{error}"
        );
    }
}
