//! `--validate`: what happens to fields of manifests that a kind does not have.

use microkube_manifest::{Problem, UnknownFields};

use super::print::for_terminal;
use crate::stderr::say;

/// Whether unknown fields are errors.
#[derive(Debug, Default, Clone, Copy, clap::Args)]
pub(super) struct ValidateArg {
    /// Fields that a kind does not have: refuse them (strict or true), drop them with a warning (warn), or drop them
    /// (ignore or false)
    #[arg(long, value_enum, default_value_t = Validate::Strict, num_args = 0..=1, require_equals = true, default_missing_value = "strict", value_name = "HOW")]
    validate: Validate,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Validate {
    #[default]
    #[value(alias = "true")]
    Strict,
    Warn,
    #[value(alias = "false")]
    Ignore,
}

impl ValidateArg {
    /// Unknown fields are dropped.
    #[cfg(test)]
    pub(super) const IGNORE: Self = Self {
        validate: Validate::Ignore,
    };

    pub(super) fn unknown_fields(self) -> UnknownFields {
        match self.validate {
            Validate::Strict => UnknownFields::Refused,
            Validate::Warn | Validate::Ignore => UnknownFields::Dropped,
        }
    }

    /// Warns of dropped fields if the user wants to know them.
    pub(super) fn warn(self, dropped: &[Problem]) {
        if self.validate == Validate::Warn {
            warn(dropped);
        }
    }
}

/// Prints kubectl's warnings of dropped fields.
pub(super) fn warn(dropped: &[Problem]) {
    for problem in dropped {
        say!("Warning: {}", for_terminal(&problem.message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_of_kubectl_are_understood() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            arg: ValidateArg,
        }
        let parse = |words: &[&str]| {
            let words = ["apply"].iter().chain(words);
            <Cli as clap::Parser>::try_parse_from(words).map(|cli| cli.arg.validate)
        };
        for (words, expected) in [
            (&[][..], Validate::Strict),
            (&["--validate"], Validate::Strict),
            (&["--validate=true"], Validate::Strict),
            (&["--validate=strict"], Validate::Strict),
            (&["--validate=warn"], Validate::Warn),
            (&["--validate=ignore"], Validate::Ignore),
            (&["--validate=false"], Validate::Ignore),
        ] {
            assert_eq!(parse(words).unwrap(), expected, "{words:?}");
        }
        assert!(parse(&["--validate=maybe"]).is_err());
    }
}
