//! `microkube api-resources`: the types of objects.

use std::process::ExitCode;

use microkube_manifest::kinds::{self, Kind};

use super::failure::Failure;
use super::print::emit;
use super::table::table;

/// The verbs of every type.
const VERBS: &str = "create,delete,get,list,patch,update,watch";

/// List the types of objects that other verbs accept
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube api-resources\n  microkube api-resources -o wide\n  microkube api-resources --namespaced=false -o name"
)]
pub struct ApiResourcesArgs {
    /// Only types whose objects are in namespaces, or only the others
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    namespaced: Option<bool>,
    /// Output format: wide or name
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
    /// Don't print column headers
    #[arg(long)]
    no_headers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Also verbs and categories
    Wide,
    /// Only the full names
    Name,
}

pub(super) fn run(args: &ApiResourcesArgs) -> Result<ExitCode, Failure> {
    emit(&text(args))?;
    Ok(ExitCode::SUCCESS)
}

fn text(args: &ApiResourcesArgs) -> String {
    let is_shown = |kind: &&Kind| args.namespaced.is_none_or(|namespaced| namespaced == kind.namespaced);
    let mut shown: Vec<&Kind> = kinds::all().iter().filter(is_shown).collect();
    shown.sort_by_key(|kind| (kind.group, kind.plural));
    if args.output == Some(Output::Name) {
        return shown.iter().map(|kind| kind.qualified_plural() + "\n").collect();
    }
    let is_wide = args.output == Some(Output::Wide);
    let mut rows = Vec::new();
    if !args.no_headers {
        let mut titles = vec!["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
        titles.extend(["VERBS", "CATEGORIES"].iter().filter(|_| is_wide));
        rows.push(titles.into_iter().map(str::to_owned).collect());
    }
    for kind in shown {
        let mut row = vec![
            kind.plural.to_owned(),
            kind.short_names.join(","),
            kind.api_version(),
            kind.namespaced.to_string(),
            kind.kind.to_owned(),
        ];
        if is_wide {
            row.extend([VERBS.to_owned(), kind.categories.join(",")]);
        }
        rows.push(row);
    }
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> String {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: ApiResourcesArgs,
        }
        let words = ["api-resources"].iter().chain(words);
        text(&<Cli as clap::Parser>::try_parse_from(words).unwrap().args)
    }

    #[test]
    fn types_are_listed_as_by_kubectl() {
        assert_eq!(
            shown(&[]),
            "\
NAME                     SHORTNAMES   APIVERSION          NAMESPACED   KIND
configmaps               cm           v1                  true         ConfigMap
namespaces               ns           v1                  false        Namespace
persistentvolumeclaims   pvc          v1                  true         PersistentVolumeClaim
persistentvolumes        pv           v1                  false        PersistentVolume
pods                     po           v1                  true         Pod
secrets                               v1                  true         Secret
serviceaccounts          sa           v1                  true         ServiceAccount
storageclasses           sc           storage.k8s.io/v1   false        StorageClass
"
        );
    }

    #[test]
    fn types_are_filtered_and_shown_in_other_formats() {
        assert_eq!(
            shown(&["--namespaced=false", "-o", "name"]),
            "namespaces\npersistentvolumes\nstorageclasses.storage.k8s.io\n"
        );
        let wide = shown(&["--namespaced", "-o", "wide", "--no-headers"]);
        assert_eq!(
            wide.lines().find(|line| line.starts_with("pods")),
            Some(
                "pods                     po    v1    true   Pod                     create,delete,get,list,patch,update,watch   all"
            )
        );
    }
}
