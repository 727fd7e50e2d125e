//! `--local`: changing the objects of files and printing them, without reading or writing objects of the node.

use std::process::ExitCode;

use anyhow::anyhow;
use microkube_manifest::kinds::Kind;
use serde_json::Value;

use super::failure::{Failure, complain};
use super::manifests::FilenameArgs;
use super::objects::dry_run::DryRun;
use super::objects::manifests;
use super::print::{emit, is_output_closed};
use super::results::{OutputArgs, Results};
use super::targets::Changed;
use crate::objects::Patch;

/// Calls `act` with each object of the files. An error concerns one object only.
pub(super) fn for_each(
    files: &FilenameArgs,
    output: &OutputArgs,
    act: &mut dyn FnMut(&'static Kind, &Value, &mut Results<'_>) -> anyhow::Result<()>,
) -> Result<ExitCode, Failure> {
    if output.dry_run == DryRun::Server {
        let problem = "cannot specify --local and --dry-run=server - did you mean --dry-run=client?";
        return Err(Failure::from(anyhow!(problem)));
    }
    let read = manifests::read(files)?;
    let mut tell = emit;
    let mut results = Results::new(output, &mut tell)?;
    let mut errors = Vec::new();
    for document in &read.documents {
        match act(document.kind(), &document.written(), &mut results) {
            Err(error) if is_output_closed(&error) => return Err(error.into()),
            Err(error) => errors.push(error),
            Ok(()) => {}
        }
    }
    results.print(&mut errors)?;
    errors.iter().for_each(complain);
    Ok(ExitCode::from(u8::from(!errors.is_empty())))
}

/// An object of a file after a patch.
///
/// # Errors
/// If the patch does not apply.
pub(super) fn patched(kind: &Kind, object: &Value, patch: &Patch) -> anyhow::Result<Changed> {
    let patched = patch.apply(kind, object)?;
    Ok(Changed {
        is_changed: patched != *object,
        object: patched,
    })
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_of_a_file_keeps_everything_else() {
        let kind = kinds::named("cm").unwrap();
        let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": null });
        let labels = Patch::Merge(json!({ "metadata": { "labels": { "a": "b" } } }));
        let changed = patched(kind, &object, &labels).unwrap();
        assert!(changed.is_changed);
        let mut expected = object.clone();
        expected["metadata"]["labels"] = json!({ "a": "b" });
        assert_eq!(changed.object, expected);
        assert!(!patched(kind, &object, &Patch::Merge(json!({}))).unwrap().is_changed);
        let missing = json!([{ "op": "remove", "path": "/none" }]);
        assert!(patched(kind, &object, &Patch::Json(missing)).is_err());
    }

    #[test]
    fn an_error_with_one_object_does_not_affect_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.yaml");
        let object = |name: &str| format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}\n---\n");
        std::fs::write(&path, object("a") + &object("b")).unwrap();
        let files = FilenameArgs::of(&[path]);
        let mut names = Vec::new();
        let exit_code = for_each(&files, &OutputArgs::default(), &mut |_, object, _| {
            names.push(object["metadata"]["name"].clone());
            anyhow::bail!("no")
        });
        assert_eq!(exit_code.unwrap(), ExitCode::FAILURE);
        assert_eq!(names, [json!("a"), json!("b")]);
        let server = OutputArgs {
            dry_run: DryRun::Server,
            ..OutputArgs::default()
        };
        assert!(for_each(&files, &server, &mut |_, _, _| Ok(())).is_err());
    }
}
