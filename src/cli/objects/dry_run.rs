//! `--dry-run`: prints what a verb would do.

/// The values of `--dry-run`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum DryRun {
    /// Make the changes
    #[default]
    None,
    /// Only print the object that would be sent
    Client,
    /// Check everything, but write nothing
    Server,
}

impl DryRun {
    /// The text after `created` and `deleted`.
    pub(in crate::cli) fn note(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}
