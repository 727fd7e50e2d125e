//! `microkube explain`: the fields of a Pod, what they are, and what microkube does with them.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::anyhow;
use microkube_manifest::schema::{Field, Schema, inside, join};
use microkube_manifest::support::{self, Support};

use super::failure::Failure;
use super::print::emit;

/// Columns of descriptions.
const WIDTH: usize = 100;

/// Show the fields of a Pod and what microkube does with them
///
/// `pod` lists every field under what microkube does with it: supported, accepted without effect, or not supported, with the
/// reason. A path shows one field and those in it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube explain pod\n  microkube explain pod.spec.containers.resources\n  microkube explain pod -o markdown > pod-fields.md"
)]
pub struct ExplainArgs {
    /// `pod`, or a field of it: pod.spec.containers.image
    #[arg(value_name = "FIELD")]
    field: String,
    /// How the list of all fields is written
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For reading
    Text,
    /// A page with tables, for all fields only
    Markdown,
}

/// Runs the verb.
pub(super) fn run(args: ExplainArgs) -> Result<ExitCode, Failure> {
    let (kind, path) = match args.field.split_once('.') {
        Some((kind, path)) => (kind, Some(path)),
        None => (args.field.as_str(), None),
    };
    if !["pod", "pods", "po"].contains(&kind.to_ascii_lowercase().as_str()) {
        return Err(Failure::usage(anyhow!(
            "{kind:?} cannot be explained, only `pod` and its fields, such as pod.spec.containers"
        )));
    }
    let text = match (path, args.output) {
        (None, Output::Text) => lists(),
        (None, Output::Markdown) => page(),
        (Some(path), Output::Text) => one(path).map_err(Failure::usage)?,
        (Some(_), Output::Markdown) => {
            return Err(Failure::usage(anyhow!(
                "only all fields of a Pod can be written as a page: explain pod"
            )));
        }
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of a field, in one line.
fn verdict(support: Support) -> String {
    match support {
        Support::Supported | Support::SameAs(_) => "supported".to_owned(),
        Support::SupportedWith(note) => format!("supported: {note}"),
        Support::Ignored(reason) => format!("accepted, without effect: {reason}"),
        Support::Refused(reason) => format!("not supported: {reason}"),
        Support::RefusedIf(values, reason) => format!("supported, but not {values}: {reason}"),
    }
}

/// The three lists: their titles, and which fields are in them with what to say.
fn groups() -> [(&'static str, Vec<(&'static str, String)>); 3] {
    let (mut supported, mut ignored, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (path, support) in support::table() {
        match support {
            Support::Supported => supported.push((*path, String::new())),
            Support::SupportedWith(note) => supported.push((*path, (*note).to_owned())),
            Support::SameAs(other) => {
                supported.push((*path, format!("its fields have the support of those in {other}")))
            }
            Support::RefusedIf(values, reason) => supported.push((*path, format!("but not {values}: {reason}"))),
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

fn one(path: &str) -> anyhow::Result<String> {
    let schema = Schema::of_pod();
    let field = schema.find(&path.replace("[]", "")).map_err(|unknown| {
        let near = unknown
            .near()
            .map(|near| format!("; did you mean {near:?}?"))
            .unwrap_or_default();
        anyhow!("a Pod has no field {path:?}: {:?} does not exist{near}", unknown.name)
    })?;
    let required = if field.required { " -required-" } else { "" };
    let name = field.path.rsplit('.').next().unwrap_or_default();
    let mut text = format!(
        "KIND:       Pod\nVERSION:    v1\n\nFIELD:      {name} <{}>{required}\nPATH:       {}\nSUPPORT:    {}\n\nDESCRIPTION:\n{}",
        field.type_name,
        field.path,
        support::support_of(&field.path).map_or_else(|| "unknown".to_owned(), verdict),
        wrapped(&field.description, 4)
    );
    if !field.fields.is_empty() {
        text += "\nFIELDS:\n";
    }
    for name in &field.fields {
        if let Some(child) = schema.field(&join(&inside(field), name)) {
            text += &summary(name, child);
        }
    }
    Ok(text)
}

/// A field in the list of another one.
fn summary(name: &str, field: &Field) -> String {
    let required = if field.required { " -required-" } else { "" };
    let mut text = format!("  {name}\t<{}>{required}\n", field.type_name);
    if let Some(support) = support::support_of(&field.path) {
        text += &wrapped(&format!("[{}]", verdict(support)), 4);
    }
    text + &wrapped(&field.description, 4) + "\n"
}

/// The text in lines, indented.
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

    #[test]
    fn all_fields_are_in_three_lists() {
        let text = lists();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}"));
        assert!(at("SUPPORTED (") < at("  spec.containers[].image\t<string>\n"));
        assert!(
            at("ACCEPTED, WITHOUT EFFECT")
                < at("  spec.nodeSelector\t<map[string]string>\n      not enforced yet: the Pod runs on this node")
        );
        assert!(at("NOT SUPPORTED, REFUSED") < at("  spec.volumes[].hostPath\t<HostPathVolumeSource>\n"));
        assert!(
            support::table()
                .iter()
                .all(|(path, _)| text.contains(&format!("  {path}\t<")))
        );
        assert!(text.lines().all(|line| line.len() <= WIDTH));
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
        assert!(text.contains("  envFrom\t<[]EnvFromSource>\n    [not supported: there are no ConfigMaps"));
        let deep = one("spec.volumes.hostPath.path").unwrap();
        assert!(
            deep.contains("SUPPORT:    not supported: emptyDir is the only volume type so far\n"),
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
                .contains("SUPPORT:    supported: as in Kubernetes")
        );
        assert_eq!(
            one("spec.containers.imagePullPolice").unwrap_err().to_string(),
            "a Pod has no field \"spec.containers.imagePullPolice\": \"imagePullPolice\" does not exist; did you mean \"imagePullPolicy\"?"
        );
        assert!(one("").is_err() && one("spec..image").is_err());
    }

    #[test]
    fn the_page_of_the_documentation_is_up_to_date() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pod-fields.md");
        if std::env::var_os("MICROKUBE_WRITE_EXPECTED").is_some() {
            std::fs::write(file, page()).unwrap();
        }
        let kept = std::fs::read_to_string(file).unwrap();
        assert!(
            kept == page(),
            "write it anew: microkube explain pod -o markdown > docs/pod-fields.md"
        );
    }
}
