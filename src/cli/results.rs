//! The output of verbs that write objects.

use microkube_manifest::kinds::Kind;
use serde_json::{Value, json};

use super::object_failure::shown_name;
use super::objects::dry_run::DryRun;
use super::pods::format::{Format, Objects};
use super::pods::output::FormatArgs;
use super::print::is_output_closed;

/// Whether to write, and what to print.
#[derive(Debug, Default, clap::Args)]
pub(super) struct OutputArgs {
    /// `client` or `server`: check and print the objects without writing them
    #[arg(long, value_enum, default_value_t = DryRun::None, value_name = "WHERE")]
    pub(super) dry_run: DryRun,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

/// Prints a line for each object, or all objects at the end.
pub(super) struct Results<'a> {
    output: &'a OutputArgs,
    format: Option<Format>,
    /// Whether several objects are printed as one list.
    is_list: bool,
    tell: &'a mut dyn FnMut(&str) -> anyhow::Result<()>,
    shown: Vec<Value>,
}

impl<'a> Results<'a> {
    /// Results that are printed one by one.
    ///
    /// # Errors
    /// If the output format lacks a template, or its template is invalid.
    pub(super) fn new(
        output: &'a OutputArgs,
        tell: &'a mut dyn FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            output,
            format: output.format.format()?,
            is_list: false,
            tell,
            shown: Vec::new(),
        })
    }

    /// Results of `apply`: with -o, several objects are printed as a list.
    pub(super) fn in_a_list(mut self) -> Self {
        self.is_list = self.output.format.is_named();
        self
    }

    /// Adds an object, and the word for what was done, such as `created`.
    ///
    /// # Errors
    /// If the line cannot be written.
    pub(super) fn add(&mut self, kind: &Kind, object: Value, done: &str) -> anyhow::Result<()> {
        match &self.format {
            None => {
                let name = object.pointer("/metadata/name").and_then(Value::as_str);
                let name = shown_name(kind, name.unwrap_or_default());
                (self.tell)(&format!("{name} {done}{}\n", self.output.dry_run.note()))
            }
            Some(format) => {
                self.shown.push(self.output.format.shown(object, format));
                Ok(())
            }
        }
    }

    /// Prints the objects in the requested format, and adds errors of templates to the others.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn print(self, errors: &mut Vec<anyhow::Error>) -> anyhow::Result<()> {
        let Self {
            format,
            is_list,
            tell,
            shown,
            ..
        } = self;
        let Some(format) = format else {
            return Ok(());
        };
        for (index, objects) in printed(&format, shown, is_list).iter().enumerate() {
            match format.print(objects, true) {
                // kubectl omits the line for some verbs, and then nothing can read its output.
                Ok(text) if index > 0 && format == Format::Yaml => tell(&format!("---\n{text}"))?,
                Ok(text) => tell(&text)?,
                Err(error) if is_output_closed(&error) => return Err(error),
                Err(error) => errors.push(error),
            }
        }
        Ok(())
    }
}

/// The objects that are printed together.
fn printed(format: &Format, objects: Vec<Value>, is_list: bool) -> Vec<Objects> {
    let is_table = matches!(format, Format::Name | Format::CustomColumns(_));
    match objects.len() {
        2.. if is_table => vec![Objects::List(objects)],
        2.. if is_list => vec![Objects::One(json!({
            "apiVersion": "v1",
            "items": objects,
            "kind": "List",
            "metadata": {},
        }))],
        _ => objects.into_iter().map(Objects::One).collect(),
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;

    use super::*;

    /// The output for objects with these names, and the errors.
    fn printed(names: &[&str], words: &str, is_list: bool) -> (String, Vec<String>) {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            output: OutputArgs,
        }
        let words = std::iter::once("create").chain(words.split_whitespace());
        let output = <Cli as clap::Parser>::try_parse_from(words).unwrap().output;
        let mut text = String::new();
        let mut tell = |line: &str| {
            text.push_str(line);
            Ok(())
        };
        let mut results = Results::new(&output, &mut tell).unwrap();
        if is_list {
            results = results.in_a_list();
        }
        for name in names {
            let object = json!({ "kind": "ConfigMap", "metadata": { "managedFields": [], "name": name } });
            results.add(kinds::named("cm").unwrap(), object, "created").unwrap();
        }
        let mut errors = Vec::new();
        results.print(&mut errors).unwrap();
        (text, errors.iter().map(ToString::to_string).collect())
    }

    fn text(names: &[&str], words: &str) -> String {
        printed(names, words, false).0
    }

    #[test]
    fn there_is_a_line_for_each_object_without_a_format() {
        assert_eq!(text(&["a", "b"], ""), "configmap/a created\nconfigmap/b created\n");
        assert_eq!(text(&["a"], "--dry-run=client"), "configmap/a created (dry run)\n");
        assert_eq!(
            text(&["a"], "--dry-run=server"),
            "configmap/a created (server dry run)\n"
        );
    }

    #[test]
    fn each_object_is_printed_in_the_format() {
        let names = ["a", "b"];
        assert_eq!(text(&names, "-o name"), "configmap/a\nconfigmap/b\n");
        assert_eq!(text(&names, "-o jsonpath={.metadata.name},"), "a,b,");
        assert_eq!(text(&names, "--template={{.metadata.name}},"), "a,b,");
        assert_eq!(
            text(&names, "-o yaml"),
            "kind: ConfigMap\nmetadata:\n  name: a\n---\nkind: ConfigMap\nmetadata:\n  name: b\n"
        );
        assert_eq!(text(&names, "-o custom-columns=N:.metadata.name"), "N\na\nb\n");
        assert!(text(&["a"], "-o yaml --show-managed-fields").contains("managedFields: []\n"));
        assert_eq!(text(&[], "-o yaml"), "");
    }

    #[test]
    fn apply_prints_a_list_with_o() {
        let listed = |names: &[&str], words: &str| printed(names, words, true).0;
        let names = ["a", "b"];
        assert_eq!(listed(&names, "-o jsonpath={.items[*].metadata.name}"), "a b");
        assert_eq!(listed(&["a"], "-o jsonpath={.metadata.name}"), "a");
        assert_eq!(listed(&names, "-o name"), "configmap/a\nconfigmap/b\n");
        assert!(listed(&names, "-o yaml").ends_with("\nkind: List\nmetadata: {}\n"));
        assert_eq!(listed(&names, "--template={{.kind}},"), "ConfigMap,ConfigMap,");
    }

    #[test]
    fn a_template_that_fails_for_an_object_does_not_affect_the_others() {
        let words = "-o jsonpath={.metadata.name} --allow-missing-template-keys=false";
        assert_eq!(printed(&["a", "b"], words, false), ("ab".to_owned(), Vec::new()));
        let (text, errors) = printed(&["a", "b"], &words.replace("name", "none"), false);
        assert_eq!(text, "");
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(errors[0].ends_with("none is not found"), "{errors:?}");
    }
}
