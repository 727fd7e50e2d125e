//! `--from-literal`, `--from-file` and `--from-env-file`: where the keys and values of ConfigMaps and Secrets come from
//! (`kubectl/pkg/cmd/create`, `kubectl/pkg/util`). Messages do not contain values.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use microkube_manifest::names;

/// Maximum size of a file: the limit for all values of an object together (`MaxSecretSize`).
const MAX_BYTES: u64 = 1 << 20;

/// The values of an object.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SourceArgs {
    /// Key and value to put into the object; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) from_literal: Vec<Literal>,
    #[command(flatten)]
    pub(super) files: FileSourceArgs,
    /// File with lines of KEY=VALUE to put into the object; a line with only KEY takes the value of that environment
    /// variable
    #[arg(long, value_delimiter = ',', value_name = "PATH")]
    pub(super) from_env_file: Vec<String>,
}

/// Files as values of an object.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct FileSourceArgs {
    /// File to put into the object under this key or the file's name, or directory whose files with valid names to put
    /// into the object
    #[arg(long, value_delimiter = ',', value_name = "[KEY=]PATH")]
    pub(super) from_file: Vec<String>,
}

/// `KEY=VALUE`, which may be secret.
#[derive(Clone)]
pub(super) struct Literal(String);

impl FromStr for Literal {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Literal")
    }
}

/// The object that gets the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    ConfigMap,
    Secret,
}

/// Takes a key and its value.
pub(super) type Add<'a> = &'a mut dyn FnMut(&str, Vec<u8>) -> anyhow::Result<()>;

/// Reads sources, and keeps the content of standard input if a source is `/dev/stdin`.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) consumed_stdin: Option<Vec<u8>>,
}

impl SourceArgs {
    /// Checks that the arguments do not contradict each other.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let has_others = !self.files.from_file.is_empty() || !self.from_literal.is_empty();
        if has_others && !self.from_env_file.is_empty() {
            bail!("from-env-file cannot be combined with from-file or from-literal");
        }
        Ok(())
    }
}

impl Sources {
    /// Adds literals.
    pub(super) fn literals(&self, literals: &[Literal], owner: Owner, add: Add<'_>) -> anyhow::Result<()> {
        for Literal(literal) in literals {
            match literal.split_once('=') {
                Some((key, value)) if !key.is_empty() => add(key, value.as_bytes().to_vec())?,
                _ if owner == Owner::ConfigMap => bail!("invalid literal source {literal}, expected key=value"),
                // kubectl prints the source, which may be secret.
                _ => bail!("invalid literal source, expected key=value"),
            }
        }
        Ok(())
    }

    /// Adds files, and the files of directories.
    pub(super) fn files(&mut self, sources: &[String], add: Add<'_>) -> anyhow::Result<()> {
        for source in sources {
            let (key, path) = key_and_path(source)?;
            if !Path::new(path).is_dir() {
                add(key, self.read(path)?)?;
                continue;
            }
            if source.contains('=') {
                bail!("cannot give a key name for a directory path");
            }
            let context = || format!("error listing files in {path}");
            let entries = std::fs::read_dir(path).with_context(context)?;
            let mut entries = entries.collect::<Result<Vec<_>, _>>().with_context(context)?;
            entries.sort_by_key(std::fs::DirEntry::file_name);
            for entry in entries {
                if entry.file_type().with_context(context)?.is_file() {
                    let content = self.read(&entry.path().to_string_lossy())?;
                    add(&entry.file_name().to_string_lossy(), content)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the lines of environment files.
    pub(super) fn env_files(&mut self, paths: &[String], owner: Owner, add: Add<'_>) -> anyhow::Result<()> {
        let what = match owner {
            Owner::ConfigMap => "config",
            Owner::Secret => "secret",
        };
        for path in paths {
            if Path::new(path).is_dir() {
                bail!("env {what} file cannot be a directory");
            }
            let content = self.read(path)?;
            for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let Ok(line) = std::str::from_utf8(line) else {
                    bail!("env file {path} contains invalid utf8 bytes at line {}", index + 1);
                };
                let line = match index {
                    0 => line.trim_start_matches('\u{feff}'),
                    _ => line,
                };
                if let Some((key, value)) = variable(line.trim_start())? {
                    add(key, value.into_bytes())?;
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, path: &str) -> anyhow::Result<Vec<u8>> {
        let is_stdin = ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"].contains(&path);
        if let Some(content) = self.consumed_stdin.as_ref().filter(|_| is_stdin) {
            return Ok(content.clone());
        }
        let content = read(path)?;
        if is_stdin {
            self.consumed_stdin = Some(content.clone());
        }
        Ok(content)
    }
}

/// Reads a file, which must not be longer than an object may be.
pub(super) fn read(path: &str) -> anyhow::Result<Vec<u8>> {
    let context = || format!("error reading {path}");
    let file = std::fs::File::open(path).with_context(context)?;
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut content)
        .with_context(context)?;
    if content.len() as u64 > MAX_BYTES {
        bail!("{path} is larger than {MAX_BYTES} bytes, the limit for all values of an object together");
    }
    Ok(content)
}

/// The key and the path in `[KEY=]PATH`.
fn key_and_path(source: &str) -> anyhow::Result<(&str, &str)> {
    match source.split_once('=') {
        None => {
            let name = source.trim_end_matches('/').rsplit('/').next();
            Ok((name.unwrap_or_default(), source))
        }
        Some((_, path)) if path.contains('=') => bail!("key names or file paths cannot contain '='"),
        Some(("", path)) => bail!("key name for file path {path} missing"),
        Some((key, "")) => bail!("file path for key name {key} missing"),
        Some((key, path)) => Ok((key, path)),
    }
}

/// The variable in a line of an environment file; `None` for empty lines and comments.
fn variable(line: &str) -> anyhow::Result<Option<(&str, String)>> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (key, value) = match line.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (line, None),
    };
    let errors = names::env_file_key(key);
    if !errors.is_empty() {
        bail!("{key:?} is not a valid key name: {}", errors.join(";"));
    }
    // Without a value, take it from the environment.
    let value = value.unwrap_or_else(|| std::env::var(key).unwrap_or_default());
    Ok(Some((key, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Found = Result<Vec<(String, String)>, String>;

    fn collected(read: impl FnOnce(&mut Sources, Add<'_>) -> anyhow::Result<()>) -> Found {
        let mut found = Vec::new();
        let mut add = |key: &str, value: Vec<u8>| {
            found.push((key.to_owned(), String::from_utf8_lossy(&value).into_owned()));
            Ok(())
        };
        let result = read(&mut Sources::default(), &mut add);
        result.map(|()| found).map_err(|error| format!("{error:#}"))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Found {
        Ok(pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect())
    }

    fn literals(texts: &[&str]) -> Found {
        let literals: Vec<Literal> = texts.iter().map(|text| text.parse().unwrap()).collect();
        collected(|sources, add| sources.literals(&literals, Owner::Secret, add))
    }

    #[test]
    fn literals_have_a_key_and_a_value() {
        assert_eq!(
            literals(&["a=b", "c=", "d=e=f,g"]),
            pairs(&[("a", "b"), ("c", ""), ("d", "e=f,g")])
        );
        for text in ["a", "=b", ""] {
            assert_eq!(
                literals(&[text]).unwrap_err(),
                "invalid literal source, expected key=value"
            );
        }
        assert_eq!(format!("{:?}", "a=hidden".parse::<Literal>().unwrap()), "Literal");
    }

    #[test]
    fn files_have_their_names_or_given_keys() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        std::fs::write(at("b.txt"), "b").unwrap();
        std::fs::write(at("a.txt"), "a\n").unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        std::os::unix::fs::symlink(at("a.txt"), at("link")).unwrap();
        let files = |sources: &[String]| collected(|all, add| all.files(sources, add));
        assert_eq!(
            files(&[at("b.txt"), format!("key={}", at("link"))]),
            pairs(&[("b.txt", "b"), ("key", "a\n")])
        );
        // A directory's own files, without links and directories.
        assert_eq!(files(&[at("")]), pairs(&[("a.txt", "a\n"), ("b.txt", "b")]));
        let none = at("none");
        assert!(
            files(std::slice::from_ref(&none))
                .unwrap_err()
                .starts_with(&format!("error reading {none}: "))
        );
        for (source, message) in [
            ("=path", "key name for file path path missing"),
            ("key=", "file path for key name key missing"),
            ("a=b=c", "key names or file paths cannot contain '='"),
            (
                &format!("key={}", at("sub")),
                "cannot give a key name for a directory path",
            ),
        ] {
            assert_eq!(files(&[source.to_owned()]).unwrap_err(), message);
        }
        assert_eq!(
            files(&["a=/dev/zero".to_owned()]).unwrap_err(),
            "/dev/zero is larger than 1048576 bytes, the limit for all values of an object together"
        );
    }

    #[test]
    fn environment_files_are_read_line_by_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        let read = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let paths = [path.display().to_string()];
            collected(|sources, add| sources.env_files(&paths, Owner::ConfigMap, add))
        };
        let text = "\u{feff}A=1\r\n\n# comment\n  B= x=y \nMICROKUBE_TEST_UNSET_VARIABLE\nC=";
        assert_eq!(
            read(text.as_bytes()),
            pairs(&[
                ("A", "1"),
                ("B", " x=y "),
                ("MICROKUBE_TEST_UNSET_VARIABLE", ""),
                ("C", "")
            ])
        );
        for (line, key) in [("é=1", "é"), ("1A=3", "1A"), ("export C=3", "export C"), ("B =1", "B ")] {
            let message = format!("{key:?} is not a valid key name: a valid environment variable name must consist of");
            let error = read(line.as_bytes()).unwrap_err();
            assert!(error.starts_with(&message), "{error}");
        }
        assert_eq!(
            read(b"a=1\n\xff=2").unwrap_err(),
            format!("env file {} contains invalid utf8 bytes at line 2", path.display())
        );
        let paths = [directory.path().display().to_string()];
        assert_eq!(
            collected(|sources, add| sources.env_files(&paths, Owner::Secret, add)).unwrap_err(),
            "env secret file cannot be a directory"
        );
    }
}
