//! The values that a setting may have, and their form as the text of an environment variable.

use std::fmt;

use microkube_manifest::suggest::{nearest, shorten};

use super::log_filter::{self, LEVELS};
use crate::network::{CidrError, Ipv4Cidr};
use crate::pod::security_policy;
use crate::volume::{AllowedHostPaths, NO_HOST_PATHS};

/// The values that a setting may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// An absolute path: supervisors do not run in the directory of the command that starts them.
    Path,
    /// An IPv4 network that Pods can have.
    Cidr,
    /// A whole number from 1 to `max`.
    Number {
        /// The counted unit.
        of: &'static str,
        max: u64,
    },
    /// `true` or `false`. Variables may also be `yes`, `no`, `1` or `0`.
    Switch,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of sysctls that belong to a namespace; `*` at the end stands for any. In variables they are separated by
    /// commas.
    Sysctls,
    /// A list of absolute paths of the host. In variables they are separated by commas; an empty list is "none".
    HostPaths,
    /// A level, or directives of `tracing_subscriber`'s `EnvFilter`.
    LogFilter,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("an absolute path"),
            Self::Cidr => f.write_str("an IPv4 network such as 10.88.0.0/16"),
            Self::Number { of, max } => write!(f, "a whole number of {of} from 1 to {max}"),
            Self::Switch => f.write_str("true or false"),
            Self::OneOf(words) => f.write_str(&words.join(" or ")),
            Self::Sysctls => f.write_str("a list of sysctls such as kernel.msg* or net.core.somaxconn"),
            Self::HostPaths => f.write_str("a list of absolute paths"),
            Self::LogFilter => write!(
                f,
                "a log level ({}) or directives such as microkube=debug",
                LEVELS.join(", ")
            ),
        }
    }
}

/// A value of the YAML file, without the content of lists and mappings.
#[derive(Debug, Clone, PartialEq)]
pub enum Plain {
    Null,
    Bool(bool),
    Number {
        shown: String,
        /// `None` if it is negative, larger than 64 bits, or not a whole number.
        whole: Option<u64>,
    },
    Text(String),
    /// The elements that are strings; the others are `None`.
    List(Vec<Option<String>>),
    Mapping,
    Tagged(String),
}

impl Plain {
    /// The text, if it is one.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number { shown, .. } => write!(f, "the number {shown}"),
            Self::Text(text) => write!(f, "the string {:?}", shorten(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Mapping => f.write_str("a mapping"),
            Self::Tagged(tag) => write!(f, "a value with the YAML tag {:?}", shorten(tag)),
        }
    }
}

/// The text of the variable for a list.
fn list_of_file(expectation: &Expectation, elements: &[Option<String>]) -> Result<String, String> {
    let texts: Option<Vec<&str>> = elements.iter().map(Option::as_deref).collect();
    let Some(texts) = texts else {
        return Err(format!("expected {expectation}, found a list with other values"));
    };
    if let Some(text) = texts.iter().find(|text| text.trim().is_empty() || text.contains(',')) {
        return Err(format!("expected {expectation}, found the string {:?}", shorten(text)));
    }
    let text = match (expectation, &texts[..]) {
        // An empty variable would mean the default.
        (Expectation::HostPaths, []) => NO_HOST_PATHS.to_owned(),
        _ => texts.join(","),
    };
    check_list(expectation, &text)?;
    Ok(text)
}

/// Checks the text of the variable for a list.
fn check_list(expectation: &Expectation, text: &str) -> Result<(), String> {
    match expectation {
        Expectation::HostPaths => AllowedHostPaths::parse(text).map(drop),
        _ => security_policy::unsafe_sysctls(text).map(drop),
    }
}

fn patterns(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|pattern| !pattern.is_empty())
}

impl Expectation {
    /// Converts a value of the file to the text of the variable. The error says what is wrong.
    pub fn of_file(&self, value: &Plain) -> Result<String, String> {
        let accepted = match (self, value) {
            (Self::Switch, Plain::Bool(value)) => Some(value.to_string()),
            (Self::Number { max, .. }, Plain::Number { whole, .. }) => whole
                .filter(|number| (1..=*max).contains(number))
                .map(|number| number.to_string()),
            (Self::Sysctls | Self::HostPaths, Plain::List(elements)) => return list_of_file(self, elements),
            (Self::Switch | Self::Number { .. } | Self::Sysctls | Self::HostPaths, _) => None,
            (Self::LogFilter, Plain::Text(text)) => {
                Some(log_filter::without_spaces(text)).filter(|directives| log_filter::is_strict(directives))
            }
            (_, Plain::Text(text)) if self.accepts(text) => Some(text.clone()),
            _ => None,
        };
        accepted.ok_or_else(|| self.complaint(value))
    }

    /// Converts the text of a variable to JSON. The error says what is wrong. Variables are read less strictly than the
    /// file.
    pub fn of_variable(&self, text: &str) -> Result<serde_json::Value, String> {
        let accepted = match self {
            // A relative one has been made absolute.
            Self::Path => Some(text.into()),
            Self::LogFilter => {
                let directives = log_filter::without_spaces(text);
                log_filter::is_valid(&directives).then(|| directives.into())
            }
            Self::Sysctls => {
                security_policy::unsafe_sysctls(text)?;
                Some(patterns(text).collect())
            }
            Self::HostPaths => {
                let paths = AllowedHostPaths::parse(text)?;
                let texts: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
                Some(texts.into())
            }
            Self::Cidr | Self::OneOf(_) => self.accepts(text).then(|| text.into()),
            Self::Number { max, .. } => {
                let number = text.parse().ok().filter(|number| (1..=*max).contains(number));
                number.map(Into::into)
            }
            Self::Switch => match text {
                "1" | "yes" | "true" => Some(true.into()),
                "0" | "no" | "false" => Some(false.into()),
                _ => None,
            },
        };
        accepted.ok_or_else(|| self.complaint(&Plain::Text(text.to_owned())))
    }

    fn accepts(&self, text: &str) -> bool {
        match self {
            // A variable cannot have NUL.
            Self::Path => text.starts_with('/') && !text.contains('\0'),
            Self::Cidr => text.parse::<Ipv4Cidr>().is_ok(),
            Self::OneOf(words) => words.contains(&text),
            Self::LogFilter | Self::Number { .. } | Self::Switch | Self::Sysctls | Self::HostPaths => false,
        }
    }

    fn complaint(&self, found: &Plain) -> String {
        let text = found.as_text().unwrap_or_default();
        let words: &[&str] = match self {
            Self::OneOf(words) => words,
            Self::LogFilter => &LEVELS[..],
            _ => &[],
        };
        if let (Self::Cidr, Err(error @ (CidrError::HostBits(..) | CidrError::Unusable(_)))) =
            (self, text.parse::<Ipv4Cidr>())
        {
            return error.to_string();
        }
        let hint = nearest(text, words).map_or_else(String::new, |word| format!("; did you mean {word}?"));
        format!("expected {self}, found {found}{hint}")
    }
}
