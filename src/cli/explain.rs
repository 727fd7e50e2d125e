//! `microkube explain`: the fields of each kind and their meaning; for Pods, also how microkube supports them.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::anyhow;
use microkube_manifest::kinds::Kind;
use microkube_manifest::schema::{Field, Schema, inside, join};
use microkube_manifest::support::{self, Support};

use super::failure::Failure;
use super::objects::arguments::kind_named;
use super::print::emit;

/// Width of descriptions in columns.
const WIDTH: usize = 100;

/// Describe the fields of a type and, for Pods, whether microkube supports them
///
/// `pod` lists all fields in three groups: supported, accepted without effect, and not supported, with the reason. A
/// path shows one field and its subfields. `microkube api-resources` lists the types.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube explain pod\n  microkube explain pod.spec.containers.resources\n  microkube explain configmap\n  microkube \
                  explain pvc.spec --recursive\n  microkube explain pod -o markdown > pod-fields.md"
)]
pub struct ExplainArgs {
    /// A type, or the path of a field: pod.spec.containers.image
    #[arg(value_name = "TYPE[.FIELD]")]
    field: String,
    /// Print the names of all fields below, without descriptions
    #[arg(long)]
    recursive: bool,
    /// Output format of the list of all fields
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Plain text
    Text,
    /// A Markdown page with tables; only for `pod`
    Markdown,
}

pub(super) fn run(args: ExplainArgs) -> Result<ExitCode, Failure> {
    let (kind, path) = match args.field.split_once('.') {
        Some((kind, path)) => (kind, Some(path)),
        None => (args.field.as_str(), None),
    };
    let kind = kind_named(kind).map_err(Failure::from)?;
    let is_pod = kind.kind == "Pod";
    let text = match (path, args.output) {
        (None, Output::Text) if is_pod && !args.recursive => lists(),
        (None, Output::Text) => whole(kind, args.recursive),
        (None, Output::Markdown) if is_pod && !args.recursive => page(),
        (Some(path), Output::Text) => one(kind, path, args.recursive).map_err(Failure::from)?,
        (_, Output::Markdown) => {
            return Err(Failure::from(anyhow!(
                "-o markdown works only for all fields of Pods: microkube explain pod -o markdown"
            )));
        }
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The kind that the path starts with.
fn head(kind: &Kind) -> String {
    let group = match kind.group {
        "" => String::new(),
        group => format!("GROUP:      {group}\n"),
    };
    format!("{group}KIND:       {}\nVERSION:    {}\n\n", kind.kind, kind.version)
}

/// A kind and its fields.
fn whole(kind: &Kind, recursive: bool) -> String {
    let schema = kind.schema();
    let description = wrapped(&schema.description, 4);
    let fields = fields(kind, "", &schema.fields, recursive);
    format!("{}DESCRIPTION:\n{description}\nFIELDS:\n{fields}", head(kind))
}

/// The fields below a path: with their descriptions, or the names of all.
fn fields(kind: &Kind, prefix: &str, names: &[String], recursive: bool) -> String {
    if recursive {
        let mut text = String::new();
        add_tree(kind.schema(), prefix, names, 1, &mut text);
        return text;
    }
    let found = names.iter().filter_map(|name| {
        let field = kind.schema().field(&join(prefix, name))?;
        Some(summary(kind, name, field))
    });
    found.collect()
}

fn add_tree(schema: &Schema, prefix: &str, names: &[String], level: usize, text: &mut String) {
    for name in names {
        if let Some(field) = schema.field(&join(prefix, name)) {
            let _ = writeln!(text, "{:indent$}{}", "", titled(name, field), indent = level * 2);
            add_tree(schema, &inside(field), &field.fields, level + 1, text);
        }
    }
}

/// The name, a tab, and `<string> -required-`.
fn titled(name: &str, field: &Field) -> String {
    let required = if field.required { " -required-" } else { "" };
    format!("{name}\t<{}>{required}", field.type_name)
}

/// The status of a field, in one line.
fn verdict(support: Support) -> String {
    match support {
        Support::Supported | Support::SameAs(_) => "supported".to_owned(),
        Support::SupportedWith(note) => format!("supported: {note}"),
        Support::Ignored(reason) => format!("accepted, without effect: {reason}"),
        Support::Refused(reason) => format!("not supported: {reason}"),
        Support::RefusedIf(values, reason) => format!("supported, {values}: {reason}"),
    }
}

/// The three lists: their titles, fields and remarks.
fn groups() -> [(&'static str, Vec<(&'static str, String)>); 3] {
    let (mut supported, mut ignored, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (path, support) in support::table() {
        match support {
            Support::Supported => supported.push((*path, String::new())),
            Support::SupportedWith(note) => supported.push((*path, (*note).to_owned())),
            Support::SameAs(other) => {
                supported.push((*path, format!("its fields are supported like those in {other}")))
            }
            Support::RefusedIf(values, reason) => supported.push((*path, format!("{values}: {reason}"))),
            Support::Ignored(reason) => ignored.push((*path, (*reason).to_owned())),
            Support::Refused(reason) => refused.push((*path, (*reason).to_owned())),
        }
    }
    [
        ("Supported", supported),
        ("Accepted, without effect", ignored),
        ("Not supported, refused", refused),
    ]
}

fn type_of(path: &str) -> &'static str {
    Schema::of_pod()
        .field(path)
        .map_or("", |field| field.type_name.as_str())
}

fn lists() -> String {
    let mut text = format!(
        "KIND:       Pod\nVERSION:    v1\n\nDESCRIPTION:\n{}",
        wrapped(&Schema::of_pod().description, 4)
    );
    for (title, fields) in groups() {
        let _ = write!(
            text,
            "\n{} (unlisted fields have the status of their listed parent):\n",
            title.to_uppercase()
        );
        for (path, note) in fields {
            let _ = writeln!(text, "  {path}\t<{}>", type_of(path));
            if !note.is_empty() {
                text += &wrapped(&note, 6);
            }
        }
    }
    text
}

fn page() -> String {
    let mut text = String::from(
        "# Fields of a Pod\n\nWhat microkube does with every field of Kubernetes' `Pod`. This page is written by `microkube explain pod -o \
         markdown`;\na test compares the two. Unlisted fields have the status of their listed parent.\n",
    );
    for (title, fields) in groups() {
        let _ = write!(text, "\n## {title}\n\n| Field | Type | |\n|---|---|---|\n");
        for (path, note) in fields {
            let _ = writeln!(text, "| `{path}` | `{}` | {note} |", type_of(path));
        }
    }
    text
}

fn one(kind: &Kind, path: &str, recursive: bool) -> anyhow::Result<String> {
    let field = kind.schema().find(&path.replace("[]", "")).map_err(|unknown| {
        let near = unknown
            .near()
            .map(|near| format!("; did you mean {near:?}?"))
            .unwrap_or_default();
        anyhow!("field {:?} does not exist{near}", unknown.name)
    })?;
    let required = if field.required { " -required-" } else { "" };
    let name = field.path.rsplit('.').next().unwrap_or_default();
    let support = match kind.kind {
        "Pod" => {
            let support = support::support_of(&field.path);
            format!(
                "SUPPORT:    {}\n",
                support.map_or_else(|| "unknown".to_owned(), verdict)
            )
        }
        _ => String::new(),
    };
    let mut text = format!(
        "{}FIELD:      {name} <{}>{required}\nPATH:       {}\n{support}\nDESCRIPTION:\n{}",
        head(kind),
        field.type_name,
        field.path,
        wrapped(&field.description, 4)
    );
    if !field.fields.is_empty() {
        let fields = fields(kind, &inside(field), &field.fields, recursive);
        text += &format!("\nFIELDS:\n{fields}");
    }
    Ok(text)
}

/// A field in its parent's list of fields.
fn summary(kind: &Kind, name: &str, field: &Field) -> String {
    let mut text = format!("  {}\n", titled(name, field));
    if kind.kind == "Pod"
        && let Some(support) = support::support_of(&field.path)
    {
        text += &wrapped(&format!("[{}]", verdict(support)), 4);
    }
    text + &wrapped(&field.description, 4) + "\n"
}

/// The text wrapped into lines and indented.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(lines, "{:indent$}{line}", "");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if !line.is_empty() {
        let _ = writeln!(lines, "{:indent$}{line}", "");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> &'static Kind {
        kind_named(name).unwrap()
    }

    fn one(path: &str) -> anyhow::Result<String> {
        super::one(kind("pod"), path, false)
    }

    #[test]
    fn other_kinds_are_explained_as_by_kubectl() {
        let text = whole(kind("cm"), false);
        assert!(
            text.starts_with(
                "KIND:       ConfigMap\nVERSION:    v1\n\nDESCRIPTION:\n    ConfigMap holds configuration data for pods to consume.\n\nFIELDS:\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("\n  immutable\t<boolean>\n    Immutable, if set to true, ensures"),
            "{text}"
        );
        assert!(!text.contains("[supported]"));
        let text = whole(kind("sc"), false);
        assert!(text.starts_with("GROUP:      storage.k8s.io\nKIND:       StorageClass\nVERSION:    v1\n"));
        assert!(text.contains("\n  provisioner\t<string> -required-\n"));
        let text = super::one(kind("secret"), "type", false).unwrap();
        assert!(
            text.contains("FIELD:      type <string>\nPATH:       type\n\nDESCRIPTION:\n"),
            "{text}"
        );
        assert_eq!(
            super::one(kind("cm"), "dat", false).unwrap_err().to_string(),
            "field \"dat\" does not exist; did you mean \"data\"?"
        );
    }

    #[test]
    fn recursive_explanations_have_only_names_and_types() {
        let text = super::one(kind("pvc"), "spec.resources", true).unwrap();
        let fields = text.split_once("FIELDS:\n").unwrap().1;
        assert_eq!(
            fields,
            "  limits\t<map[string]Quantity>\n  requests\t<map[string]Quantity>\n"
        );
        let text = whole(kind("pod"), true);
        assert!(
            text.contains("\n  spec\t<PodSpec>\n    activeDeadlineSeconds\t<integer>\n"),
            "{text}"
        );
        assert!(text.contains("\n    containers\t<[]Container> -required-\n      args\t<[]string>\n"));
    }

    #[test]
    fn fields_are_listed_by_support_in_three_lists() {
        let text = lists();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}"));
        assert!(at("SUPPORTED (") < at("  spec.containers[].image\t<string>\n"));
        assert!(
            at("ACCEPTED, WITHOUT EFFECT")
                < at("  spec.nodeSelector\t<map[string]string>\n      not enforced yet: the Pod runs on this node")
        );
        assert!(at("NOT SUPPORTED, REFUSED") < at("  spec.volumes[].nfs\t<NFSVolumeSource>\n"));
        assert!(
            support::table()
                .iter()
                .all(|(path, _)| text.contains(&format!("  {path}\t<")))
        );
        // The names of fields are not wrapped.
        assert!(text.lines().all(|line| line.len() <= WIDTH || line.contains("\t<")));
    }

    #[test]
    fn a_field_has_type_support_description_and_fields() {
        let text = one("spec.containers").unwrap();
        assert!(
            text.contains("FIELD:      containers <[]Container> -required-\n"),
            "{text}"
        );
        assert!(
            text.contains("SUPPORT:    supported\n")
                && text.contains("  image\t<string>\n    [supported]\n    Container image name.")
        );
        assert!(text.contains("  volumeDevices\t<[]VolumeDevice>\n    [not supported: volumes are mounted as file"));
        let deep = one("spec.volumes.nfs.path").unwrap();
        assert!(
            deep.contains("SUPPORT:    not supported: mount the export on the host, and use hostPath\n"),
            "{deep}"
        );
        for path in [
            "spec.initContainers[].image",
            "spec.initContainers.readinessProbe.httpGet.path",
        ] {
            assert!(one(path).unwrap().contains("SUPPORT:    supported\n"), "{path}");
        }
        assert!(
            one("spec.initContainers.lifecycle.preStop.tcpSocket")
                .unwrap()
                .contains("SUPPORT:    supported: such a hook fails when it runs, as in Kubernetes")
        );
        assert_eq!(
            one("spec.containers.imagePullPolice").unwrap_err().to_string(),
            "field \"imagePullPolice\" does not exist; did you mean \"imagePullPolicy\"?"
        );
        assert!(one("").is_err() && one("spec..image").is_err());
    }

    #[test]
    fn the_documentation_page_is_up_to_date() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pod-fields.md");
        if std::env::var_os("MICROKUBE_WRITE_EXPECTED").is_some() {
            std::fs::write(file, page()).unwrap();
        }
        let kept = std::fs::read_to_string(file).unwrap();
        assert!(
            kept == page(),
            "regenerate it: microkube explain pod -o markdown > docs/pod-fields.md"
        );
    }
}
