//! The arguments of `get`, and the output format that they select.

use serde_json::Value;

use super::super::jsonpath::Template;
use super::super::objects::arguments::{FieldSelectorArg, ObjectArgs, Requested};
use super::super::objects::table::Columns;
use super::super::pods::arguments::{ScopeArgs, SelectorArg};
use super::super::pods::format::Format;

/// Display Pods and other objects
///
/// Prints a table, or the whole objects in another format (-o). With -w, also prints every change. `microkube
/// api-resources` lists the types.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube get pods\n  microkube get pod web -o yaml\n  microkube get configmaps,secrets -A\n  microkube get pods -l \
                  app=shop -w\n  microkube get secret/tls -o jsonpath='{.data.tls\\.crt}'\n  microkube get -f shop/"
)]
pub struct GetArgs {
    #[command(flatten)]
    pub(super) objects: ObjectArgs,
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    #[command(flatten)]
    pub(super) selector: SelectorArg,
    #[command(flatten)]
    pub(super) field_selector: FieldSelectorArg,
    #[command(flatten)]
    pub(super) show: Show,
    /// After listing the objects, watch for changes
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Watch for changes without listing the objects first
    #[arg(long)]
    pub(super) watch_only: bool,
    /// Don't fail if an object does not exist
    #[arg(long)]
    pub(super) ignore_not_found: bool,
}

/// The output format.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Show {
    /// Output format: json, yaml, name, wide, jsonpath=TEMPLATE, jsonpath-as-json=TEMPLATE,
    /// jsonpath-file=PATH, custom-columns=NAME:PATH,… or custom-columns-file=PATH
    #[arg(short, long, value_name = "FORMAT", value_parser = str::parse::<Format>)]
    pub(super) output: Option<Format>,
    /// Don't print column headers
    #[arg(long)]
    pub(super) no_headers: bool,
    /// Show all labels as the last column
    #[arg(long)]
    pub(super) show_labels: bool,
    /// Show the values of these labels as columns
    #[arg(short = 'L', long, value_delimiter = ',', value_name = "LABEL,…")]
    pub(super) label_columns: Vec<String>,
    /// Keep metadata.managedFields in json and yaml
    #[arg(long)]
    pub(super) show_managed_fields: bool,
    /// Sort by this field, such as .metadata.creationTimestamp
    #[arg(long, value_name = "JSONPATH", value_parser = Template::parse_relaxed)]
    pub(super) sort_by: Option<Template>,
}

impl Show {
    /// Whether it is a table.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.output, None | Some(Format::Wide))
    }

    /// The columns of the table.
    pub(super) fn columns(&self, requested: &Requested) -> Columns<'_> {
        let is_one_kind = matches!(requested.groups.as_slice(), [] | [_]);
        Columns {
            wide: self.output.is_some(),
            namespace: requested.namespace.is_none(),
            kind: !is_one_kind,
            labels: &self.label_columns,
            all_labels: self.show_labels,
        }
    }
}

/// The object as it is printed.
pub(super) fn shown(mut object: Value, show: &Show) -> Value {
    if !show.show_managed_fields
        && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
    {
        metadata.remove("managedFields");
    }
    object
}
