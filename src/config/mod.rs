//! The configuration file, and the settings in force: from environment variables, from the file, and defaults, in this
//! order.
//!
//! `settings` lists the settings, and `expectation` checks values. `file` opens the file, and `reader` parses it with
//! `walk` and `place`. `environment` reads the variables, and `effective` combines them with file and defaults.
//!
//! The rest of microkube reads environment variables only: [`Config::export`] sets those that the file has values for,
//! and makes relative paths absolute. Processes inherit the variables, so everything that a command starts has the
//! settings that the command started with.

mod effective;
mod environment;
mod error;
mod expectation;
mod file;
pub mod log_filter;
mod place;
mod reader;
mod settings;
#[cfg(test)]
mod tests;
mod unknown_key;
mod walk;

pub use effective::{Config, Effective, Source, WrongVariable};
pub use error::{ConfigError, Problem, Problems};
pub use expectation::{Expectation, Plain};
pub use file::load;
pub use reader::{FileSettings, read};
pub use settings::{SETTINGS, Setting};
