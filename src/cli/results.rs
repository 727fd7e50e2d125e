//! The output of verbs that write objects.

use anyhow::bail;
use microkube_manifest::kinds::Kind;
use serde_json::Value;

use super::object_failure::shown_name;
use super::objects::dry_run::DryRun;
use super::pods::format::{FORMATS, Format, Objects};

/// Whether to write, and what to print.
#[derive(Debug, Default, clap::Args)]
pub(super) struct OutputArgs {
    /// `client` or `server`: check and print the objects without writing them
    #[arg(long, value_enum, default_value_t = DryRun::None, value_name = "WHERE")]
    pub(super) dry_run: DryRun,
    /// Output format, with all defaults filled in: json, yaml, kyaml, name, jsonpath=TEMPLATE,
    /// jsonpath-as-json=TEMPLATE, jsonpath-file=PATH, go-template=TEMPLATE, go-template-file=PATH, custom-columns=NAME:PATH,… or
    /// custom-columns-file=PATH
    #[arg(short, long, value_name = "FORMAT", value_parser = object_format)]
    pub(super) output: Option<Format>,
}

pub(super) fn object_format(text: &str) -> anyhow::Result<Format> {
    match text.parse()? {
        Format::Wide => bail!("wide is not supported here; use {FORMATS}"),
        format => Ok(format),
    }
}

/// Prints a line for each object, or all objects at the end.
pub(super) struct Results<'a> {
    output: &'a OutputArgs,
    tell: &'a mut dyn FnMut(&str) -> anyhow::Result<()>,
    shown: Vec<Value>,
}

impl<'a> Results<'a> {
    pub(super) fn new(output: &'a OutputArgs, tell: &'a mut dyn FnMut(&str) -> anyhow::Result<()>) -> Self {
        Self {
            output,
            tell,
            shown: Vec::new(),
        }
    }

    /// Adds an object, and the word for what was done, such as `created`.
    ///
    /// # Errors
    /// If the line cannot be written.
    pub(super) fn add(&mut self, kind: &Kind, object: Value, done: &str) -> anyhow::Result<()> {
        if self.output.output.is_none() {
            let name = object.pointer("/metadata/name").and_then(Value::as_str);
            let name = shown_name(kind, name.unwrap_or_default());
            (self.tell)(&format!("{name} {done}{}\n", self.output.dry_run.note()))?;
        }
        self.shown.push(object);
        Ok(())
    }

    /// Prints the objects in the requested format: one alone, several as a list.
    ///
    /// # Errors
    /// If they cannot be formatted or written.
    pub(super) fn print(mut self) -> anyhow::Result<()> {
        let Some(format) = &self.output.output else {
            return Ok(());
        };
        let objects = match self.shown.pop() {
            None => return Ok(()),
            Some(only) if self.shown.is_empty() => Objects::One(only),
            Some(last) => {
                self.shown.push(last);
                Objects::List(self.shown)
            }
        };
        (self.tell)(&format.print(&objects, true)?)
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use serde_json::json;

    use super::*;

    fn printed(names: &[&str], output: &OutputArgs) -> String {
        let mut text = String::new();
        let mut tell = |line: &str| {
            text.push_str(line);
            Ok(())
        };
        let mut results = Results::new(output, &mut tell);
        for name in names {
            let object = json!({ "kind": "ConfigMap", "metadata": { "name": name } });
            results.add(kinds::named("cm").unwrap(), object, "created").unwrap();
        }
        results.print().unwrap();
        text
    }

    #[test]
    fn there_is_a_line_for_each_object_or_one_document() {
        let dry_run = |dry_run| OutputArgs { dry_run, output: None };
        assert_eq!(
            printed(&["a", "b"], &dry_run(DryRun::None)),
            "configmap/a created\nconfigmap/b created\n"
        );
        assert_eq!(
            printed(&["a"], &dry_run(DryRun::Client)),
            "configmap/a created (dry run)\n"
        );
        assert_eq!(
            printed(&["a"], &dry_run(DryRun::Server)),
            "configmap/a created (server dry run)\n"
        );
        let format = |format: &str| OutputArgs {
            dry_run: DryRun::None,
            output: Some(format.parse().unwrap()),
        };
        assert_eq!(printed(&["a", "b"], &format("name")), "configmap/a\nconfigmap/b\n");
        assert_eq!(printed(&["a"], &format("jsonpath={.metadata.name}")), "a");
        assert_eq!(
            printed(&["a", "b"], &format("jsonpath={.items[*].metadata.name}")),
            "a b"
        );
        assert_eq!(printed(&[], &format("yaml")), "");
    }
}
