//! `-o` and the options for it, which the verbs that print whole objects have in common.

use anyhow::bail;
use serde_json::Value;

use super::format::{FORMATS, Format};

/// The options for the template and the content of `-o`.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct TemplateArgs {
    /// The template or path for a format of -o that lacks it; a Go template if there is no -o
    #[arg(long, value_name = "TEMPLATE")]
    template: Option<String>,
    /// With --allow-missing-template-keys=false: fail if an object lacks a field of the template
    #[arg(
        long,
        action = clap::ArgAction::Set,
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    allow_missing_template_keys: bool,
    /// Keep metadata.managedFields in json and yaml
    #[arg(long)]
    show_managed_fields: bool,
}

impl Default for TemplateArgs {
    fn default() -> Self {
        Self {
            template: None,
            allow_missing_template_keys: true,
            show_managed_fields: false,
        }
    }
}

impl TemplateArgs {
    /// The format with its template.
    ///
    /// # Errors
    /// If the format lacks a template, or the template is invalid.
    pub(in crate::cli) fn format(&self, output: Option<Format>) -> anyhow::Result<Option<Format>> {
        let format = Format::with_template(output, self.template.as_deref())?;
        Ok(format.map(|format| format.allowing_missing(self.allow_missing_template_keys)))
    }

    /// The object as it is printed in this format.
    pub(in crate::cli) fn shown(&self, mut object: Value, format: Option<&Format>) -> Value {
        let is_whole = matches!(format, Some(Format::Json | Format::Yaml | Format::Kyaml));
        if is_whole && !self.show_managed_fields {
            remove_managed_fields(&mut object);
        }
        object
    }

    fn has_template(&self) -> bool {
        self.template.as_deref().is_some_and(|template| !template.is_empty())
    }
}

/// `-o` for verbs without a table.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct FormatArgs {
    /// Output format: json, yaml, kyaml, name, jsonpath=TEMPLATE, jsonpath-as-json=TEMPLATE, jsonpath-file=PATH,
    /// go-template=TEMPLATE, go-template-file=PATH, custom-columns=NAME:PATH,… or custom-columns-file=PATH
    #[arg(short, long, value_name = "FORMAT", value_parser = object_format)]
    output: Option<Format>,
    #[command(flatten)]
    template: TemplateArgs,
}

impl FormatArgs {
    /// The format, if one is given.
    ///
    /// # Errors
    /// If the format lacks a template, or the template is invalid.
    pub(in crate::cli) fn format(&self) -> anyhow::Result<Option<Format>> {
        self.template.format(self.output.clone())
    }

    /// Whether there is a format.
    pub(in crate::cli) fn is_given(&self) -> bool {
        self.output.is_some() || self.template.has_template()
    }

    /// Whether `-o` gives it, and not only `--template`.
    pub(in crate::cli) fn is_named(&self) -> bool {
        self.output.is_some()
    }

    /// The object as it is printed in this format.
    pub(in crate::cli) fn shown(&self, object: Value, format: &Format) -> Value {
        self.template.shown(object, Some(format))
    }
}

/// Removes `metadata.managedFields`, which few readers want.
pub(in crate::cli) fn remove_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn object_format(text: &str) -> anyhow::Result<Format> {
    match Format::parse_before_template(text)? {
        Format::Wide => bail!("wide is not supported here; use {FORMATS}"),
        format => Ok(format),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(words: &str) -> Result<FormatArgs, String> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: FormatArgs,
        }
        let words = std::iter::once("create").chain(words.split_whitespace());
        let cli = <Cli as clap::Parser>::try_parse_from(words);
        cli.map(|cli| cli.args).map_err(|error| error.to_string())
    }

    fn format(words: &str) -> Result<Option<Format>, String> {
        args(words)?.format().map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_completes_the_format_or_is_a_go_template() {
        let parsed = |text: &str| Ok(Some(text.parse::<Format>().unwrap().allowing_missing(true)));
        assert_eq!(format(""), Ok(None));
        assert_eq!(format("--template={{.a}}"), parsed("go-template={{.a}}"));
        assert_eq!(format("-o jsonpath --template={.a}"), parsed("jsonpath={.a}"));
        assert_eq!(format("-o json --template={{"), parsed("json"));
        let strict = "go-template={{.a}}".parse::<Format>().unwrap().allowing_missing(false);
        assert_eq!(
            format("--template={{.a}} --allow-missing-template-keys=false"),
            Ok(Some(strict))
        );
        assert_eq!(
            format("-o go-template"),
            Err("template format specified but no template given".to_owned())
        );
        assert!(args("-o wide").unwrap_err().contains("wide is not supported here"));
        let (named, templated) = (args("-o name").unwrap(), args("--template={{.a}}").unwrap());
        assert!(named.is_given() && named.is_named());
        assert!(templated.is_given() && !templated.is_named());
        assert!(!args("--template=").unwrap().is_given());
    }

    #[test]
    fn managed_fields_are_shown_in_templates_or_on_request() {
        let object = json!({ "metadata": { "managedFields": [], "name": "a" } });
        let shown = |words: &str| {
            let args = args(words).unwrap();
            let format = args.format().unwrap().unwrap();
            args.shown(object.clone(), &format)
        };
        for words in ["-o json", "-o yaml", "-o kyaml"] {
            assert_eq!(shown(words), json!({ "metadata": { "name": "a" } }), "{words}");
            assert_eq!(shown(&format!("{words} --show-managed-fields")), object, "{words}");
        }
        assert_eq!(shown("--template={{.metadata}}"), object);
    }
}
