//! The environment variables of this process, with absolute paths: supervisors inherit them, but run in `/`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;

use super::error::ConfigError;
use super::expectation::Expectation;
use super::settings::SETTINGS;

/// Variables of podman, Docker and OpenSSL with a path that supervisors use to pull images.
const PATHS_OF_PULLS: [&str; 6] = [
    "CONTAINERS_REGISTRIES_CONF",
    "DOCKER_CONFIG",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_FILE",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];

/// Like [`PATHS_OF_PULLS`], with several paths separated by colons.
const PATH_LISTS_OF_PULLS: [&str; 1] = ["SSL_CERT_DIR"];

/// The variables that matter to configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Environment {
    /// The variables of [`SETTINGS`], in the same order. An empty one counts as not set.
    pub settings: Vec<Option<OsString>>,
    /// The variables that had a relative path, with the absolute one.
    pub made_absolute: Vec<(&'static str, OsString)>,
}

impl Environment {
    /// # Errors
    /// A variable has a relative path, and the current directory is unknown.
    pub fn of_process() -> Result<Self, ConfigError> {
        Self::of(|variable| std::env::var_os(variable), std::env::current_dir)
    }

    fn of(
        value: impl Fn(&str) -> Option<OsString>,
        directory: impl Fn() -> io::Result<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let value = |variable| value(variable).filter(|value| !value.is_empty());
        let absolute = |variable, path: &OsStr| match directory() {
            // Join by components, to omit `.`.
            Ok(directory) => Ok(directory.join(path).components().collect::<PathBuf>()),
            Err(source) => Err(ConfigError::NoDirectory {
                variable,
                path: path.into(),
                source,
            }),
        };
        let mut made_absolute = Vec::new();
        let mut settings = Vec::new();
        for setting in &SETTINGS {
            let mut value = value(setting.variable);
            if setting.expectation == Expectation::Path
                && let Some(path) = value.as_mut().filter(|path| is_relative(path))
            {
                *path = absolute(setting.variable, path)?.into();
                made_absolute.push((setting.variable, path.clone()));
            }
            settings.push(value);
        }
        for variable in PATHS_OF_PULLS {
            if let Some(path) = value(variable).filter(|path| is_relative(path)) {
                made_absolute.push((variable, absolute(variable, &path)?.into()));
            }
        }
        for variable in PATH_LISTS_OF_PULLS {
            let paths: Vec<PathBuf> = value(variable)
                .map(|paths| std::env::split_paths(&paths).collect())
                .unwrap_or_default();
            if !paths.iter().any(|path| is_relative(path.as_os_str())) {
                continue;
            }
            let paths = paths.into_iter().map(|path| match is_relative(path.as_os_str()) {
                true => absolute(variable, path.as_os_str()),
                false => Ok(path),
            });
            let paths = paths.collect::<Result<Vec<_>, _>>()?;
            // Fails only if the current directory has a colon in its name: then the list cannot name it.
            if let Ok(paths) = std::env::join_paths(paths) {
                made_absolute.push((variable, paths));
            }
        }
        Ok(Self {
            settings,
            made_absolute,
        })
    }
}

/// An empty entry in a list has no meaning.
fn is_relative(path: &OsStr) -> bool {
    !path.is_empty() && std::path::Path::new(path).is_relative()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Vec<(&'static str, String)> {
        let value = |variable: &str| {
            let found = variables.iter().find(|(name, _)| *name == variable);
            found.map(|(_, value)| OsString::from(value))
        };
        let environment = Environment::of(value, || Ok("/start/dir".into())).unwrap();
        for (setting, value) in SETTINGS.iter().zip(&environment.settings) {
            let changed = environment
                .made_absolute
                .iter()
                .find(|(name, _)| *name == setting.variable);
            if let Some((_, changed)) = changed {
                assert_eq!(value.as_ref(), Some(changed));
            }
        }
        let changed = environment.made_absolute.into_iter();
        changed
            .map(|(variable, path)| (variable, path.into_string().unwrap()))
            .collect()
    }

    #[test]
    fn relative_paths_in_variables_become_absolute() {
        for setting in SETTINGS
            .iter()
            .filter(|setting| setting.expectation == Expectation::Path)
        {
            let variable = setting.variable;
            assert_eq!(
                of(&[(variable, "./a/../b")]),
                [(variable, "/start/dir/a/../b".to_owned())]
            );
        }
        for variable in PATHS_OF_PULLS {
            assert_eq!(of(&[(variable, "a:b")]), [(variable, "/start/dir/a:b".to_owned())]);
        }
        assert_eq!(
            of(&[("SSL_CERT_DIR", "a:/b::./c")]),
            [("SSL_CERT_DIR", "/start/dir/a:/b::/start/dir/c".to_owned())]
        );
    }

    #[test]
    fn other_values_stay_as_they_are() {
        for value in ["/a/./b", ""] {
            for variable in ["MICROKUBE_STATE_DIR", "DOCKER_CONFIG", "SSL_CERT_DIR"] {
                assert_eq!(of(&[(variable, value)]), [], "{variable}={value}");
            }
        }
        assert_eq!(of(&[("MICROKUBE_LOG", "debug"), ("HOME", "home")]), []);
    }

    #[test]
    fn a_relative_path_without_a_current_directory_is_an_error() {
        let with = |value: &'static str| {
            let value = move |variable: &str| (variable == "MICROKUBE_RUN_DIR").then(|| OsString::from(value));
            Environment::of(value, || Err(io::ErrorKind::NotFound.into()))
        };
        assert!(with("/run/microkube").is_ok());
        let error = with("run").unwrap_err();
        assert_eq!(
            format!("{}; {}", microkube_base::causes::with_causes(&error), error.remedy()),
            "MICROKUBE_RUN_DIR has the relative path run, and the current directory is unknown: entity not found; \
             set the variable to an absolute path, or run microkube in a directory that exists"
        );
    }
}
