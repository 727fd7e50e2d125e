//! `--field-manager`, which microkube accepts for scripts written for kubectl.

/// Who changes fields.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FieldManagerArg {
    /// Accepted as in kubectl, without effect: microkube keeps metadata.managedFields as given
    #[arg(long = "field-manager", value_name = "NAME")]
    _name: Option<String>,
}
