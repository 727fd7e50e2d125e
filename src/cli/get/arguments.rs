//! The arguments of `get`, and the output format that they select.

use anyhow::anyhow;
use serde_json::Value;

use super::super::failure::Failure;
use super::super::jsonpath::Template;
use super::super::objects::arguments::{FieldSelectorArg, ObjectArgs, Requested, Subresource};
use super::super::objects::table::Columns;
use super::super::pods::arguments::{ScopeArgs, SelectorArg};
use super::super::pods::format::Format;
use super::super::pods::output::TemplateArgs;

/// Display Pods and other objects
///
/// Prints a table, or the whole objects in another format (-o). With -w, also prints every change. `microkube
/// api-resources` lists the types.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube get pods\n  microkube get pod web -o yaml\n  microkube get configmaps,secrets -A\n  microkube get pods -l \
                  app=shop -w\n  microkube get secret/tls -o jsonpath='{.data.tls\\.crt}'\n  microkube get secret/db -o \
                  go-template='{{.data.password | base64decode}}'\n  microkube get events --field-selector \
                  involvedObject.name=web\n  microkube get -f shop/"
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
    /// Print events of a watch: what happened to each object
    #[arg(long)]
    pub(super) output_watch_events: bool,
    /// Don't fail if an object does not exist
    #[arg(long)]
    pub(super) ignore_not_found: bool,
    /// Get this subresource of the named objects
    #[arg(long, value_enum, value_name = "SUBRESOURCE")]
    pub(super) subresource: Option<Subresource>,
    /// Accepted as in kubectl, without effect: lists are always read as a whole
    #[arg(long = "chunk-size", default_value_t = 500, value_name = "COUNT")]
    _chunk_size: u64,
}

/// The output format.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Output format: json, yaml, kyaml, name, wide, jsonpath=TEMPLATE, jsonpath-as-json=TEMPLATE,
    /// jsonpath-file=PATH, go-template=TEMPLATE, go-template-file=PATH, custom-columns=NAME:PATH,… or
    /// custom-columns-file=PATH
    #[arg(short, long, value_name = "FORMAT", value_parser = Format::parse_before_template)]
    pub(super) output: Option<Format>,
    #[command(flatten)]
    template: TemplateArgs,
    /// Show the type in the name of each object
    #[arg(long)]
    pub(super) show_kind: bool,
    /// Don't print column headers
    #[arg(long)]
    pub(super) no_headers: bool,
    /// Show all labels as the last column
    #[arg(long)]
    pub(super) show_labels: bool,
    /// Show the values of these labels as columns
    #[arg(short = 'L', long, value_delimiter = ',', value_name = "LABEL,…")]
    pub(super) label_columns: Vec<String>,
    /// Sort by this field, such as .metadata.creationTimestamp
    #[arg(long, value_name = "JSONPATH", value_parser = Template::parse_relaxed)]
    pub(super) sort_by: Option<Template>,
}

impl GetArgs {
    /// Whether changes are shown.
    pub(super) fn follows(&self) -> bool {
        self.watch || self.watch_only
    }

    /// Checks that the arguments do not contradict each other, and what is requested.
    pub(super) fn check(&self, requested: &Requested) -> Result<(), Failure> {
        if self.output_watch_events && !self.follows() {
            let problem = "--output-watch-events option can only be used with --watch or --watch-only";
            return Err(Failure::from(anyhow!(problem)));
        }
        match self.subresource {
            None => Ok(()),
            Some(Subresource::Status) => requested.check_status(),
        }
    }
}

impl Show {
    /// Applies the options for templates to the format.
    ///
    /// # Errors
    /// If the format lacks a template, or the template is invalid.
    pub(super) fn prepare(&mut self) -> anyhow::Result<()> {
        self.output = self.template.format(self.output.take())?;
        Ok(())
    }

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
            kind: self.show_kind || !is_one_kind,
            labels: &self.label_columns,
            all_labels: self.show_labels,
        }
    }
}

/// The object as it is printed.
pub(super) fn shown(object: Value, show: &Show) -> Value {
    show.template.shown(object, show.output.as_ref())
}
