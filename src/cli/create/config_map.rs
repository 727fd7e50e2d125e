//! `microkube create configmap`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use microkube_manifest::names;

use super::super::failure::Failure;
use super::generated::{self, GeneratedArgs, named};
use super::name_hash;
use super::sources::{Owner, SourceArgs, Sources};

/// Create a config map from files, directories or literal values
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube create configmap settings --from-literal=colour=blue --from-literal=size=3\n  microkube create configmap \
                  site --from-file=index.html --from-file=config.js=site.js\n  microkube create configmap env --from-env-file=.env \
                  --dry-run=client -o yaml"
)]
pub(super) struct ConfigMapArgs {
    /// Name of the config map
    name: String,
    #[command(flatten)]
    sources: SourceArgs,
    /// Append a hash of the config map to its name
    #[arg(long)]
    append_hash: bool,
    #[command(flatten)]
    generated: GeneratedArgs,
}

pub(super) fn run(args: &ConfigMapArgs) -> Result<ExitCode, Failure> {
    let mut sources = Sources::default();
    let config_map = config_map(args, &mut sources).map_err(Failure::from)?;
    let stdin = sources.consumed_stdin.as_deref();
    generated::create(
        config_map.into(),
        &args.generated,
        Some("failed to create configmap:"),
        stdin,
    )
}

fn config_map(args: &ConfigMapArgs, sources: &mut Sources) -> anyhow::Result<ConfigMap> {
    args.sources.check()?;
    let (mut data, mut binary_data) = (BTreeMap::new(), BTreeMap::new());
    let mut add = |key: &str, value: Vec<u8>| {
        let errors = names::config_map_key(key);
        if !errors.is_empty() {
            bail!("{key:?} is not a valid key name for a ConfigMap: {}", errors.join(","));
        }
        let in_field = match () {
            () if data.contains_key(key) => Some("Data"),
            () if binary_data.contains_key(key) => Some("BinaryData"),
            () => None,
        };
        if let Some(field) = in_field {
            bail!(
                "cannot add key {key:?}, another key by that name already exists in {field} for ConfigMap {:?}",
                args.name
            );
        }
        match String::from_utf8(value) {
            Ok(text) => drop(data.insert(key.to_owned(), text)),
            Err(error) => drop(binary_data.insert(key.to_owned(), ByteString(error.into_bytes()))),
        }
        Ok(())
    };
    sources.files(&args.sources.files.from_file, &mut add)?;
    sources.literals(&args.sources.from_literal, Owner::ConfigMap, &mut add)?;
    sources.env_files(&args.sources.from_env_file, Owner::ConfigMap, &mut add)?;
    let mut config_map = ConfigMap {
        metadata: named(&args.name),
        data: Some(data).filter(|data| !data.is_empty()),
        binary_data: Some(binary_data).filter(|data| !data.is_empty()),
        immutable: None,
    };
    if args.append_hash {
        let hash = name_hash::of_config_map(&config_map);
        config_map.metadata.name = Some(format!("{}-{hash}", args.name));
    }
    Ok(config_map)
}

#[cfg(test)]
mod tests {
    use super::generated::tests::printed;
    use super::*;

    fn generate(words: &[&str]) -> anyhow::Result<ConfigMap> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: ConfigMapArgs,
        }
        let words = ["configmap"].iter().chain(words);
        let args = <Cli as clap::Parser>::try_parse_from(words).unwrap().args;
        config_map(&args, &mut Sources::default())
    }

    #[test]
    fn texts_are_data_and_other_files_binary_data() {
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("logo.png");
        std::fs::write(&binary, [0xff, 0]).unwrap();
        let file = format!("--from-file={}", binary.display());
        let config_map = generate(&["settings", "--from-literal=a=1", &file, "--from-literal=b=x\ny\n"]).unwrap();
        assert_eq!(
            printed(&config_map.into(), &["--dry-run=client", "-o", "yaml"]),
            "\
apiVersion: v1
binaryData:
  logo.png: /wA=
data:
  a: \"1\"
  b: |
    x
    y
kind: ConfigMap
metadata:
  name: settings
"
        );
        let empty = generate(&["empty"]).unwrap();
        assert_eq!(
            printed(&empty.into(), &["-o", "yaml"]),
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: empty\n"
        );
    }

    #[test]
    fn wrong_sources_are_refused_in_kubectls_words() {
        for (words, message) in [
            (
                &["a", "--from-literal=x=1", "--from-literal=x=2"][..],
                "cannot add key \"x\", another key by that name already exists in Data for ConfigMap \"a\"",
            ),
            (
                &["a", "--from-literal=k"],
                "invalid literal source k, expected key=value",
            ),
            (
                &["a", "--from-literal=x=1", "--from-env-file=env"],
                "from-env-file cannot be combined with from-file or from-literal",
            ),
        ] {
            assert_eq!(generate(words).unwrap_err().to_string(), message);
        }
        let error = generate(&["a", "--from-literal=a b=1"]).unwrap_err().to_string();
        assert!(
            error.starts_with("\"a b\" is not a valid key name for a ConfigMap: a valid config key must consist of"),
            "{error}"
        );
    }

    #[test]
    fn the_hash_depends_on_name_and_data() {
        let name = |words: &[&str]| generate(words).unwrap().metadata.name.unwrap();
        let hashed = name(&["a", "--append-hash"]);
        assert!(hashed.starts_with("a-") && hashed.len() == 12, "{hashed}");
        assert_ne!(hashed, name(&["a", "--append-hash", "--from-literal=x=1"]));
    }
}
