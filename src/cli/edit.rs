//! `microkube edit`: opens objects in an editor, and patches them with the difference. A file with errors is opened again,
//! with the errors in its header.

mod editor;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use microkube_manifest::Input;
use microkube_manifest::kinds::{Kind, read_documents_with};
use microkube_patch::kinds::schema_of;
use microkube_patch::{check_identity, last_applied, merge_patch, strategic};
use serde_json::{Value, json};

use self::editor::{Edited, Editor};
use super::failure::{Failure, complain};
use super::field_manager::FieldManagerArg;
use super::objects::dry_run::DryRun;
use super::pods::output::remove_managed_fields;
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use super::results::{OutputArgs, Results};
use super::save_config::annotation_patch;
use super::targets::{ChangeError, NamedArgs, NodeObjects, Target};
use super::validate::ValidateArg;
use super::yaml;
use crate::emulated_host;
use crate::objects::{Part, Patch};
use crate::pod::operations::claims;
use crate::stderr::say;

const HEADER: &str = "\
# Please edit the object below. Lines beginning with a '#' will be ignored,
# and an empty file will abort the edit. If an error occurs while saving this file will be
# reopened with the relevant failures.
#
";

/// Where an edited file is kept in the emulated host. Other files of a command disappear with the command.
const KEPT_INSIDE: &str = "/run";

/// Edit objects in an editor
///
/// Starts the editor from KUBE_EDITOR or EDITOR (default: `vi`), and saves the changes when the editor exits. If an
/// object is invalid, opens the file again with the errors in its header.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube edit configmap app\n  EDITOR=nano microkube edit secret/login -n shop\n  microkube edit configmap app -o json"
)]
pub struct EditArgs {
    #[command(flatten)]
    objects: NamedArgs,
    /// The format of the file
    #[arg(short, long, value_enum, default_value_t = FileFormat::Yaml, value_name = "FORMAT")]
    output: FileFormat,
    #[command(flatten)]
    saving: SavingArgs,
    #[command(flatten)]
    _field_manager: FieldManagerArg,
}

/// How edited objects are saved.
#[derive(Debug, Default, Clone, Copy, clap::Args)]
struct SavingArgs {
    #[command(flatten)]
    validate: ValidateArg,
    /// Keep the edited object in its annotation as the last applied configuration
    #[arg(long)]
    save_config: bool,
    /// Print the patch of each edited object
    #[arg(long)]
    output_patch: bool,
    /// Keep metadata.managedFields in the file
    #[arg(long)]
    show_managed_fields: bool,
}

/// What is edited.
#[derive(Debug, Clone, Copy)]
enum What {
    Objects(SavingArgs),
    /// The last applied configurations of objects.
    LastApplied(ValidateArg),
}

impl What {
    fn validate(self) -> ValidateArg {
        match self {
            Self::Objects(saving) => saving.validate,
            Self::LastApplied(validate) => validate,
        }
    }

    /// The patch that saves an edited text.
    fn patch(self, kind: &Kind, original: &Value, edited: Value) -> anyhow::Result<Patch> {
        let saving = match self {
            Self::Objects(saving) => saving,
            Self::LastApplied(_) => return Ok(annotation_patch(edited)?),
        };
        let edited = match saving.save_config {
            true => last_applied::record(edited)?,
            false => edited,
        };
        let patch = match schema_of(&kind.api_version(), kind.kind) {
            Some(schema) => Patch::Strategic(strategic::diff(original, &edited, schema)?),
            None => Patch::Merge(merge_patch::diff(original, &edited)?),
        };
        if let Patch::Strategic(patch) | Patch::Merge(patch) = &patch {
            check_identity(patch)?;
            if saving.output_patch {
                emit(&format!("Patch: {patch}\n"))?;
            }
        }
        Ok(patch)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FileFormat {
    Json,
    Yaml,
    Kyaml,
}

/// Edit the last applied configurations of objects in an editor
///
/// Changes nothing else in the objects.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube apply edit-last-applied configmap app\n  microkube apply edit-last-applied -f config.yaml -o json"
)]
pub struct EditLastAppliedArgs {
    #[command(flatten)]
    objects: NamedArgs,
    /// The format of the file
    #[arg(short, long, value_enum, default_value_t = FileFormat::Yaml, value_name = "FORMAT")]
    output: FileFormat,
    #[command(flatten)]
    validate: ValidateArg,
    #[command(flatten)]
    _field_manager: FieldManagerArg,
}

pub(super) fn run(args: EditArgs) -> Result<ExitCode, Failure> {
    run_with(&args.objects, args.output, What::Objects(args.saving))
}

pub(super) fn run_last_applied(args: EditLastAppliedArgs) -> Result<ExitCode, Failure> {
    run_with(&args.objects, args.output, What::LastApplied(args.validate))
}

fn run_with(objects: &NamedArgs, format: FileFormat, what: What) -> Result<ExitCode, Failure> {
    let requested = objects.requested()?;
    let paths = match pods_host::go_to_pods(Purpose::Objects, requested.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let node = NodeObjects::open(paths, DryRun::None)?;
    let (mut originals, errors) = node.requested(&requested)?;
    if let Some(error) = errors.into_iter().next() {
        return Err(error.into());
    }
    match what {
        What::LastApplied(_) => originals = last_applied_of(originals)?,
        What::Objects(saving) if saving.show_managed_fields => {}
        What::Objects(_) => originals
            .iter_mut()
            .for_each(|(_, object)| remove_managed_fields(object)),
    }
    let editor = Editor::from_env(format.extension());
    let output = OutputArgs::default();
    let mut tell = emit;
    let mut results = Results::new(&output, &mut tell)?;
    let ended = edit(
        &node,
        &originals,
        format,
        what,
        &mut |text| editor.edit(text),
        &mut results,
    )?;
    claims::follow_changes(
        node.paths(),
        &node.objects,
        originals.iter().map(|(target, _)| target.kind),
    );
    match ended {
        Ended::Saved => Ok(ExitCode::SUCCESS),
        Ended::Cancelled(why) => {
            say!("{why}");
            Ok(ExitCode::SUCCESS)
        }
        Ended::Failed { error, path } => {
            complain(&error);
            let is_inside = emulated_host::is_inside();
            let path = match is_inside {
                true => moved(&path, Path::new(KEPT_INSIDE))?,
                false => path,
            };
            say!(
                "A copy of your changes has been stored to {:?}",
                path.display().to_string()
            );
            if is_inside {
                say!(
                    "It is in the emulated host: print it with `microkube machine exec -- cat {}`",
                    path.display()
                );
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

impl FileFormat {
    fn extension(self) -> &'static str {
        match self {
            Self::Json => ".json",
            Self::Yaml | Self::Kyaml => ".yaml",
        }
    }

    /// The text to edit, without a header.
    fn text(self, originals: &[(Target, Value)]) -> String {
        let document = match originals {
            [(_, only)] => only.clone(),
            several => {
                let items: Vec<&Value> = several.iter().map(|(_, object)| object).collect();
                json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items })
            }
        };
        match self {
            Self::Json => format!("{document:#}\n"),
            Self::Yaml => yaml::document(&document),
            Self::Kyaml => yaml::kyaml::document(&document),
        }
    }

    /// The text before the objects. JSON has no comments.
    fn header(self, reasons: &[Reason]) -> String {
        let mut header = match self {
            Self::Json => return String::new(),
            Self::Yaml | Self::Kyaml => HEADER.to_owned(),
        };
        let comment = |text: &str| text.replace('\n', "\n# ");
        for Reason { head, others } in reasons {
            let colon = if others.is_empty() { "" } else { ":" };
            let _ = writeln!(header, "# {}{colon}", comment(head));
            for other in others {
                let _ = writeln!(header, "# * {}", comment(other));
            }
            header.push_str("#\n");
        }
        header
    }
}

/// The last applied configurations of the objects that have one.
fn last_applied_of(objects: Vec<(Target, Value)>) -> anyhow::Result<Vec<(Target, Value)>> {
    let mut configurations = Vec::new();
    for (target, object) in objects {
        if let Some(configuration) = last_applied::read(&object)? {
            configurations.push((target, configuration));
        }
    }
    if configurations.is_empty() {
        bail!(
            "no last-applied-configuration annotation found on resources, to create the annotation, use command `microkube apply \
             set-last-applied --create-annotation`"
        );
    }
    Ok(configurations)
}

/// Moves a file to a directory, where only this user can read it.
fn moved(path: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let text = std::fs::read(path).context("cannot read the edited file")?;
    let to = directory.join(path.file_name().unwrap_or_default());
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&to)
        .with_context(|| format!("cannot create {}", to.display()))?;
    file.write_all(&text)
        .with_context(|| format!("cannot write {}", to.display()))?;
    // If the file cannot be removed, it is discarded with the other files of this command.
    let _ = std::fs::remove_file(path);
    Ok(to)
}

/// How editing ended.
#[derive(Debug)]
enum Ended {
    Saved,
    Cancelled(&'static str),
    /// The edited file is kept.
    Failed {
        error: anyhow::Error,
        path: PathBuf,
    },
}

/// Why the file is opened again.
#[derive(Debug, PartialEq)]
struct Reason {
    head: String,
    others: Vec<String>,
}

/// Edits until everything is saved or the user cancels.
fn edit(
    node: &NodeObjects,
    originals: &[(Target, Value)],
    format: FileFormat,
    what: What,
    launch: &mut dyn FnMut(&str) -> anyhow::Result<Edited>,
    results: &mut Results<'_>,
) -> anyhow::Result<Ended> {
    let original = format.text(originals);
    let mut text = format.header(&[]) + &original;
    // The text of the previous round, which had errors.
    let mut refused: Option<String> = None;
    loop {
        let Edited { text: edited, file } = launch(&text)?;
        let bare = without_comments(&edited);
        if refused.as_deref() == Some(&bare) {
            return Ok(Ended::Failed {
                error: anyhow!("Edit cancelled, no valid changes were saved."),
                path: file.keep()?.1,
            });
        }
        if bare == without_comments(&original) {
            return Ok(Ended::Cancelled("Edit cancelled, no changes made."));
        }
        if bare.trim().is_empty() {
            return Ok(Ended::Cancelled("Edit cancelled, saved file was empty."));
        }
        let reasons = match save(node, originals, &edited, what, results) {
            Ok(reasons) if reasons.is_empty() => return Ok(Ended::Saved),
            Ok(reasons) => reasons,
            Err(error) => {
                let path = file.keep()?.1;
                return Ok(Ended::Failed { error, path });
            }
        };
        for reason in &reasons {
            say!("error: {}", reason.head);
        }
        text = format.header(&reasons) + &bare;
        refused = Some(bare);
    }
}

/// The text without comment lines. In YAML, the lines of a multi-line string are indented, so none begins with `#`.
fn without_comments(text: &str) -> String {
    let lines = text.split_inclusive('\n').filter(|line| !line.starts_with('#'));
    lines.collect()
}

/// Saves the edited objects. Returns the errors.
fn save(
    node: &NodeObjects,
    originals: &[(Target, Value)],
    edited: &str,
    what: What,
    results: &mut Results<'_>,
) -> anyhow::Result<Vec<Reason>> {
    let input = Input {
        source: "line",
        text: edited.as_bytes(),
    };
    let documents = match read_documents_with(&[input], what.validate().unknown_fields()) {
        Ok(documents) => documents,
        Err(error) => {
            let reason = Reason {
                head: "The edited file had a syntax error".to_owned(),
                others: error.to_string().lines().map(str::to_owned).collect(),
            };
            return Ok(vec![reason]);
        }
    };
    let mut reasons = Vec::new();
    for document in documents {
        what.validate().warn(document.dropped_fields());
        let edited = document.written();
        let target = Target::of(document.kind(), &edited)?;
        let Some((target, original)) = originals.iter().find(|(known, _)| known.is(&target)) else {
            bail!("At least one of apiVersion, kind and name was changed");
        };
        if *original == edited {
            results.add(target.kind, edited, "skipped")?;
            continue;
        }
        let patch = what.patch(target.kind, original, edited)?;
        let changed = node.try_change(target, Part::Main, &mut |current| {
            Ok(Some(patch.apply(target.kind, current)?))
        });
        match changed {
            Ok(changed) => results.add(target.kind, changed.object, "edited")?,
            Err(ChangeError::Object(error)) if !error.problems().is_empty() => reasons.push(Reason {
                head: format!("{} {:?} was not valid", target.kind.qualified_plural(), target.key.name),
                others: error.problems().iter().map(|problem| problem.message.clone()).collect(),
            }),
            Err(error) => return Err(error.into_report()),
        }
    }
    Ok(reasons)
}

#[cfg(test)]
mod tests;
