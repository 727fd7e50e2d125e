//! Go's text templates over JSON values, with the functions of `kubectl -o go-template`, its output and its messages.
//!
//! Templates and values come from users and API clients: the size of a template, how deep its parts are nested, and the
//! steps and output of an execution are bounded. Where a template comes from and where its output goes does not belong
//! here.
//!
//! Not supported: complex numbers, and text that is not UTF-8.

mod error;
mod execute;
mod float;
mod format;
mod functions;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-go-template/mod.rs"]
mod fuzz_targets;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
mod lexer;
mod node;
mod number;
mod output;
mod parser;
mod printf;
mod quote;
mod state;
#[cfg(test)]
mod tests;
mod value;

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_go_template;

pub use error::{ExecuteError, ParseError};
pub use format::go_text;
#[cfg(test)]
use kept_inputs::fuzz_target;
pub use parser::{MAX_TEMPLATE_BYTES, Template};

/// Name of the template in messages: kubectl's.
const NAME: &str = "output";
