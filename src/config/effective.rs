//! The settings in force, and where each comes from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::environment::Environment;
use super::error::ConfigError;
use super::reader::FileSettings;
use super::settings::{FILE_VARIABLE, SETTINGS, Setting};

/// The settings of the file and the environment when they were read.
#[derive(Debug, Clone)]
pub struct Config {
    file: Option<PathBuf>,
    of_file: FileSettings,
    environment: Environment,
}

/// A setting in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// Null: microkube searched for it and did not find it.
    pub value: Value,
    pub source: Source,
}

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Default,
    /// The configuration file, on this line.
    File {
        line: usize,
    },
    /// The setting's variable.
    Variable,
}

/// A variable has a wrong value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {what}")]
pub struct WrongVariable {
    variable: &'static str,
    what: String,
}

impl Config {
    /// The settings of the environment alone.
    ///
    /// # Errors
    /// [`ConfigError::NoDirectory`]
    pub fn without_file() -> Result<Self, ConfigError> {
        Ok(Self {
            file: None,
            of_file: FileSettings::default(),
            environment: Environment::of_process()?,
        })
    }

    pub(super) fn of_file(file: PathBuf, of_file: FileSettings) -> Result<Self, ConfigError> {
        Ok(Self {
            file: Some(file),
            of_file,
            environment: Environment::of_process()?,
        })
    }

    /// The configuration file, if one was read.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Every setting with its value in force.
    ///
    /// # Errors
    /// A variable has a wrong value.
    pub fn settings(&self) -> Result<Vec<(&'static Setting, Effective)>, WrongVariable> {
        let settings = SETTINGS.iter().zip(&self.environment.settings);
        settings
            .map(|(setting, variable)| Ok((setting, self.effective(setting, variable.as_ref())?)))
            .collect()
    }

    fn effective(&self, setting: &Setting, variable: Option<&OsString>) -> Result<Effective, WrongVariable> {
        let (text, source) = match (variable, self.of_file.get(setting), setting.default()) {
            (Some(variable), _, _) => (variable.to_string_lossy().into_owned(), Source::Variable),
            (None, Some((text, line)), _) => (text.to_owned(), Source::File { line }),
            (None, None, Some(default)) => (default, Source::Default),
            (None, None, None) => {
                return Ok(Effective {
                    value: Value::Null,
                    source: Source::Default,
                });
            }
        };
        let value = setting.expectation.of_variable(&text).map_err(|what| WrongVariable {
            variable: setting.variable,
            what,
        })?;
        Ok(Effective { value, source })
    }

    /// Sets the environment variables that the file has values for, except those that are set already, and makes the
    /// relative paths in variables absolute. Processes that this one starts inherit them and read no configuration file,
    /// so a later change of the file has no effect on them.
    ///
    /// # Safety
    /// No other thread of this process may read or write the environment at the same time.
    pub unsafe fn export(&self) {
        for (variable, path) in &self.environment.made_absolute {
            // SAFETY: the caller's promise.
            unsafe { std::env::set_var(variable, path) };
        }
        for (setting, variable) in SETTINGS.iter().zip(&self.environment.settings) {
            if let (None, Some(text)) = (variable, self.of_file.text_of(setting)) {
                // SAFETY: as above.
                unsafe { std::env::set_var(setting.variable, text) };
            }
        }
        // SAFETY: as above.
        unsafe { std::env::set_var(FILE_VARIABLE, "") };
    }
}
