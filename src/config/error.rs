//! Why the configuration cannot be used.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Only the default file may be missing.
    #[error("MICROKUBE_CONFIG names the configuration file {path}, which does not exist")]
    Missing { path: PathBuf },
    /// Its target was removed or renamed, so the administrator's settings would be lost silently.
    #[error("the configuration file {path} is a symbolic link to a file that does not exist")]
    Dangling { path: PathBuf },
    /// A directory, device or pipe.
    #[error("the configuration file {path} is not a regular file")]
    NotAFile { path: PathBuf },
    /// Larger than any configuration.
    #[error("the configuration file {path} is larger than {max_kib} KiB")]
    TooLarge { path: PathBuf, max_kib: u64 },
    /// The file cannot be opened or read.
    #[error("cannot read the configuration file {path}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A variable has a relative path, which cannot be made absolute. Supervisors would look for it in `/`.
    #[error("{variable} has the relative path {path}, and the current directory is unknown")]
    NoDirectory {
        variable: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file's content is wrong. Displays one line per problem.
    #[error("{0}")]
    Wrong(Problems),
}

impl ConfigError {
    /// The remedy.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "correct the variable, or set `MICROKUBE_CONFIG=` to use no file",
            Self::NoDirectory { .. } => {
                "set the variable to an absolute path, or run microkube in a directory that exists"
            }
            _ => "correct the file, or set `MICROKUBE_CONFIG=` to use no file",
        }
    }
}

/// The problems in the content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file's name.
    pub source: String,
    /// At least one, in the order of the text.
    pub list: Vec<Problem>,
    /// How many more there are.
    pub omitted: usize,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line and column (in characters), both counted from 1.
    pub place: Option<(usize, usize)>,
    /// The problem, its place in the structure, and the expected value.
    pub message: String,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Problem { place, message }) in self.list.iter().enumerate() {
            let separator = if number == 0 { "" } else { "\n" };
            write!(f, "{separator}{}", self.source)?;
            if let Some((line, column)) = place {
                write!(f, ":{line}:{column}")?;
            }
            write!(f, ": {message}")?;
        }
        match self.omitted {
            0 => Ok(()),
            1 => write!(f, "\n{}: and 1 more error", self.source),
            more => write!(f, "\n{}: and {more} more errors", self.source),
        }
    }
}
