//! `-o`: the output formats for objects.

use std::io::Read as _;
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use microkube_go_template::{Template as GoTemplate, go_text};
use serde_json::{Value, json};

use super::super::jsonpath::Template;
use super::super::print::{emit, escaped};
use super::super::table::table;
use super::super::yaml;

/// An output format.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) enum Format {
    /// The verb's table, with more columns.
    Wide,
    Json,
    Yaml,
    Kyaml,
    Name,
    JsonPath(Template),
    /// The values that the template finds, in a JSON list.
    JsonPathAsJson(Template),
    CustomColumns(Vec<(String, Template)>),
    /// A format of [`TEMPLATE_FORMATS`] whose template is in another argument.
    WithoutTemplate(String),
    /// Go's template, and whether missing keys are printed as `<no value>`.
    GoTemplate(GoTemplate, bool),
}

/// The formats in help texts and messages, except wide.
pub(in crate::cli) const FORMATS: &str = "json, yaml, kyaml, name, jsonpath=TEMPLATE, jsonpath-as-json=TEMPLATE, \
     jsonpath-file=PATH, go-template=TEMPLATE, go-template-file=PATH, custom-columns=NAME:PATH,… or \
     custom-columns-file=PATH";

/// The formats with a template, or the path of one.
const TEMPLATE_FORMATS: [&str; 7] = [
    "jsonpath",
    "jsonpath-as-json",
    "jsonpath-file",
    "go-template",
    "go-template-file",
    "template",
    "templatefile",
];

const NO_TEMPLATE: &str = "template format specified but no template given";

/// Maximum size of a file with a template or with columns: that of a template.
const MAX_FILE_BYTES: u64 = 64 << 10;

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once('=') {
            None => match text {
                "wide" => Self::Wide,
                "json" => Self::Json,
                "yaml" => Self::Yaml,
                "kyaml" => Self::Kyaml,
                "name" => Self::Name,
                text if TEMPLATE_FORMATS.contains(&text) => bail!(NO_TEMPLATE),
                "custom-columns" => bail!("custom-columns format specified but no custom columns given"),
                "custom-columns-file" => bail!("custom-columns-file format specified but no custom columns file given"),
                _ => return Err(unknown(text)),
            },
            Some(("jsonpath", template)) => Self::JsonPath(Template::parse(template)?),
            Some(("jsonpath-as-json", template)) => Self::JsonPathAsJson(Template::parse(template)?),
            Some(("jsonpath-file", path)) => Self::JsonPath(Template::parse(&file(path)?)?),
            Some(("go-template" | "template", template)) => go_template(template)?,
            Some(("go-template-file" | "templatefile", path)) => go_template(&file(path)?)?,
            Some(("custom-columns", columns)) => Self::CustomColumns(custom_columns(columns)?),
            Some(("custom-columns-file", path)) => columns_of_file(&file(path)?)?,
            Some(_) => return Err(unknown(text)),
        })
    }
}

fn unknown(text: &str) -> anyhow::Error {
    anyhow!(
        "unable to match a printer suitable for the output format {text:?}, allowed formats are: \
         custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,\
         kyaml,name,template,templatefile,wide,yaml"
    )
}

fn go_template(text: &str) -> anyhow::Result<Format> {
    let template = GoTemplate::parse(text).map_err(|error| anyhow!("error parsing template {text}, {error}"))?;
    Ok(Format::GoTemplate(template, true))
}

/// The text in a file.
fn file(path: &str) -> anyhow::Result<String> {
    let context = || format!("error reading --template {path}");
    let file = std::fs::File::open(path).with_context(context)?;
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)
        .with_context(context)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        bail!("{}: the file is larger than {MAX_FILE_BYTES} bytes", context());
    }
    Ok(text)
}

/// A line with the titles, and one with the paths, separated by spaces.
///
/// # Errors
/// If a line is missing, the lines differ in length, or a path is invalid.
pub(in crate::cli) fn columns_of_file(text: &str) -> anyhow::Result<Format> {
    const EXPECTED: &str =
        "Expected format is one line of space separated headers, one line of space separated column specs.";
    let mut lines = text.lines();
    let Some(titles) = lines.next() else {
        bail!("invalid template, missing header line. {EXPECTED}");
    };
    let Some(paths) = lines.next() else {
        bail!("invalid template, missing spec line. {EXPECTED}");
    };
    let titles: Vec<&str> = titles.split_whitespace().collect();
    let paths: Vec<&str> = paths.split_whitespace().collect();
    if titles.len() != paths.len() {
        bail!(
            "number of headers ({}) and field specifications ({}) don't match",
            titles.len(),
            paths.len()
        );
    }
    let columns = titles
        .into_iter()
        .zip(paths)
        .map(|(title, path)| Ok((title.to_owned(), Template::parse_relaxed(path)?)));
    Ok(Format::CustomColumns(columns.collect::<anyhow::Result<_>>()?))
}

/// `NAME:.metadata.name,PHASE:.status.phase`
fn custom_columns(text: &str) -> anyhow::Result<Vec<(String, Template)>> {
    let column = |column: &str| {
        let (title, path) = column
            .split_once(':')
            .filter(|(_, path)| !path.is_empty())
            .with_context(|| format!("unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>"))?;
        Ok((title.to_owned(), Template::parse_relaxed(path)?))
    };
    // A comma in brackets belongs to a path, and a bracket in quotes to a key or value in it.
    let (mut depth, mut quote, mut is_escaped) = (0_usize, None, false);
    text.split(|c| {
        let was_escaped = is_escaped;
        is_escaped = c == '\\' && !was_escaped;
        match (quote, c) {
            _ if was_escaped => {}
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if depth > 0 => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        c == ',' && depth == 0 && !was_escaped
    })
    .map(column)
    .collect()
}

/// The objects to print.
#[derive(Debug)]
pub(in crate::cli) enum Objects {
    /// A single object, requested by name.
    One(Value),
    /// Any number of objects.
    List(Vec<Value>),
}

impl Objects {
    /// The objects from values that serialise to JSON.
    ///
    /// # Errors
    /// If a value cannot be serialised.
    pub(in crate::cli) fn of<T: serde::Serialize>(objects: &[T], by_one_name: bool) -> anyhow::Result<Self> {
        let mut values = objects
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(match values.pop() {
            Some(only) if by_one_name && values.is_empty() => Self::One(only),
            last => {
                values.extend(last);
                Self::List(values)
            }
        })
    }

    fn each(&self) -> &[Value] {
        match self {
            Self::One(object) => std::slice::from_ref(object),
            Self::List(objects) => objects,
        }
    }

    fn as_one(&self) -> Value {
        match self {
            Self::One(object) => object.clone(),
            Self::List(objects) => json!({
                "apiVersion": "v1",
                "items": objects,
                "kind": "List",
                "metadata": { "resourceVersion": "" },
            }),
        }
    }
}

impl Format {
    /// The format for a verb with the argument `--template`, which [`Format::with_template`] adds.
    ///
    /// # Errors
    /// If the format is unknown, or its template is invalid.
    pub(in crate::cli) fn parse_before_template(text: &str) -> anyhow::Result<Self> {
        if TEMPLATE_FORMATS.contains(&text) {
            return Ok(Self::WithoutTemplate(text.to_owned()));
        }
        text.parse()
    }

    /// The format with the template of `--template`. Without a format, it is a Go template.
    ///
    /// # Errors
    /// If the format lacks a template, or the template is invalid.
    pub(in crate::cli) fn with_template(format: Option<Self>, template: Option<&str>) -> anyhow::Result<Option<Self>> {
        match (format, template.filter(|template| !template.is_empty())) {
            (Some(Self::WithoutTemplate(name)), Some(template)) => Ok(Some(format!("{name}={template}").parse()?)),
            (Some(Self::WithoutTemplate(_)), None) => bail!(NO_TEMPLATE),
            (None, Some(template)) => Ok(Some(go_template(template)?)),
            (format, _) => Ok(format),
        }
    }

    /// The format in which missing fields of templates are errors, unless they are allowed.
    pub(in crate::cli) fn allowing_missing(self, allows_missing: bool) -> Self {
        match self {
            Self::JsonPath(template) => Self::JsonPath(template.allowing_missing(allows_missing)),
            Self::JsonPathAsJson(template) => Self::JsonPathAsJson(template.allowing_missing(allows_missing)),
            Self::GoTemplate(template, _) => Self::GoTemplate(template, allows_missing),
            other => other,
        }
    }

    /// The objects in this format. The verb handles [`Format::Wide`] itself.
    ///
    /// # Errors
    /// If a template cannot be applied to them.
    pub(in crate::cli) fn print(&self, objects: &Objects, headers: bool) -> anyhow::Result<String> {
        Ok(match self {
            Self::Wide => String::new(),
            Self::WithoutTemplate(_) => bail!(NO_TEMPLATE),
            Self::Json => json_text(&objects.as_one())?,
            Self::Yaml => yaml::document(&objects.as_one()),
            Self::Kyaml => yaml::kyaml::document(&objects.as_one()),
            Self::GoTemplate(template, allows_missing) => executed(template, &objects.as_one(), *allows_missing)?,
            Self::Name => objects.each().iter().map(|object| name(object) + "\n").collect(),
            Self::JsonPath(template) => template.render(&objects.as_one())?,
            Self::JsonPathAsJson(template) => escaped(&template.render_as_json(&objects.as_one())?),
            Self::CustomColumns(columns) => {
                let mut rows = Vec::new();
                if headers {
                    rows.push(columns.iter().map(|(title, _)| title.clone()).collect());
                }
                for object in objects.each() {
                    let cell = |(_, template): &(String, Template)| custom_cell(template, object);
                    rows.push(columns.iter().map(cell).collect::<anyhow::Result<_>>()?);
                }
                table(&rows)
            }
        })
    }
}

/// What a template makes of an object. If it fails, its output until then and the object are printed, as in kubectl.
fn executed(template: &GoTemplate, object: &Value, allows_missing: bool) -> anyhow::Result<String> {
    let result = if holds_secret(object) {
        template.render_secret(object, allows_missing)
    } else {
        template.render(object, allows_missing)
    };
    result.or_else(|error| {
        let text = template.text();
        emit(&format!(
            "{}Error executing template: {error}. Printing more information for debugging the template:\n\ttemplate was:\n\t\t\
             {text}\n{}\n\n",
            error.output(),
            data_for_debugging(object)
        ))?;
        bail!("error executing template {text:?}: {error}")
    })
}

/// Whether the object is a Secret or a list with one. Unlike kubectl, errors then contain no values: errors end in the
/// logs of CI.
fn holds_secret(object: &Value) -> bool {
    let mut objects = object["items"].as_array().into_iter().flatten().chain([object]);
    objects.any(|object| object["kind"] == "Secret")
}

/// The object of a failed template.
fn data_for_debugging(object: &Value) -> String {
    if holds_secret(object) {
        return "\traw data was:\n\t\t(not shown: it contains a Secret)".to_owned();
    }
    let data = object.to_string();
    let data = data
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    format!(
        "\traw data was:\n\t\t{data}\n\tobject given to template engine was:\n\t\t{}",
        go_text(object)
    )
}

fn custom_cell(template: &Template, object: &Value) -> anyhow::Result<String> {
    let found = template.find(object)?;
    // kubectl shows these with Go's `fmt`.
    let texts: Vec<String> = found.into_iter().map(go_text).collect();
    Ok(if texts.is_empty() {
        "<none>".to_owned()
    } else {
        texts.join(",")
    })
}

/// `pod/web`, `storageclass.storage.k8s.io/fast`
fn name(object: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text(object.get("kind")).to_ascii_lowercase();
    let version = text(object.get("apiVersion"));
    let group = version.split_once('/').map(|(group, _)| format!(".{group}"));
    format!(
        "{kind}{}/{}",
        group.unwrap_or_default(),
        text(object.pointer("/metadata/name"))
    )
}

/// Indented by four spaces, as in kubectl.
fn json_text(value: &Value) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer)?;
    Ok(escaped(&String::from_utf8(bytes)?) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: &str, objects: &Objects) -> String {
        format.parse::<Format>().unwrap().print(objects, true).unwrap()
    }

    fn pod(name: &str) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "a": "b" } } })
    }

    #[test]
    fn one_object_is_printed_alone_and_several_as_a_list() {
        let one = Objects::of(&[pod("web")], true).unwrap();
        let list = Objects::of(&[pod("a"), pod("b")], true).unwrap();
        let single_of_many = Objects::of(&[pod("a")], false).unwrap();
        assert_eq!(print("name", &one), "pod/web\n");
        assert_eq!(print("name", &list), "pod/a\npod/b\n");
        assert_eq!(print("jsonpath={.metadata.name}", &one), "web");
        assert_eq!(print("jsonpath={.items[*].metadata.name}", &single_of_many), "a");
        assert_eq!(
            print("yaml", &one),
            "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    a: b\n  name: web\n"
        );
        assert_eq!(
            print("kyaml", &one),
            "---\n{\n  apiVersion: \"v1\",\n  kind: \"Pod\",\n  metadata: {\n    labels: {\n      a: \"b\",\n    },\n    name: \"web\",\n  },\n}\n"
        );
        assert!(print("yaml", &list).ends_with("kind: List\nmetadata:\n  resourceVersion: \"\"\n"));
        assert!(print("json", &one).starts_with("{\n    \"apiVersion\": \"v1\",\n    \"kind\": \"Pod\",\n"));
        assert_eq!(
            print(
                "custom-columns=NAME:.metadata.name,A:{.metadata.labels['a','x']},N:.none",
                &list
            ),
            "NAME   A     N\na      b     <none>\nb      b     <none>\n"
        );
    }

    #[test]
    fn templates_and_columns_can_be_in_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("template");
        let one = Objects::of(&[pod("web")], true).unwrap();
        let print_file = |format: &str, text: &str| {
            std::fs::write(&path, text).unwrap();
            let format = format!("{format}={}", path.display()).parse::<Format>();
            format.map_or_else(|error| error.to_string(), |format| format.print(&one, true).unwrap())
        };
        assert_eq!(print_file("jsonpath-file", "{.kind} {.metadata.name}\n"), "Pod web\n");
        assert_eq!(
            print_file(
                "custom-columns-file",
                "NAME\tA\n.metadata.name  {.metadata.labels.a}\nmore\n"
            ),
            "NAME   A\nweb    b\n"
        );
        assert_eq!(
            print_file("custom-columns-file", "A B\n.a\n"),
            "number of headers (2) and field specifications (1) don't match"
        );
        assert!(print_file("custom-columns-file", "A\n").starts_with("invalid template, missing spec line"));
        assert_eq!(print("jsonpath-as-json={.metadata.name}", &one), "[\n    \"web\"\n]\n");
    }

    #[test]
    fn go_templates_are_applied_to_one_object_or_the_list() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("template");
        std::fs::write(&path, "{{.kind}}\n").unwrap();
        let one = Objects::of(&[pod("web")], true).unwrap();
        let list = Objects::of(&[pod("a"), pod("b")], true).unwrap();
        assert_eq!(print("go-template={{.metadata.name}}", &one), "web");
        assert_eq!(
            print("template={{.metadata.labels}} {{.none}}", &one),
            "map[a:b] <no value>"
        );
        assert_eq!(
            print("go-template={{range .items}}{{.metadata.name}},{{end}}", &list),
            "a,b,"
        );
        for format in ["go-template-file", "templatefile"] {
            assert_eq!(print(&format!("{format}={}", path.display()), &one), "Pod\n");
        }
    }

    #[test]
    fn a_template_can_be_an_argument_for_itself() {
        let format = |format: &str, template| {
            let format = Some(format).filter(|format| !format.is_empty());
            let format = format.map(|format| Format::parse_before_template(format).unwrap());
            Format::with_template(format, template).map_err(|error| error.to_string())
        };
        let parsed = |text: &str| Ok(Some(text.parse::<Format>().unwrap()));
        assert_eq!(format("", Some("{{.a}}")), parsed("go-template={{.a}}"));
        assert_eq!(format("template", Some("{{.a}}")), parsed("go-template={{.a}}"));
        assert_eq!(format("jsonpath", Some("{.a}")), parsed("jsonpath={.a}"));
        assert_eq!(format("json", Some("{{.a}}")), Ok(Some(Format::Json)));
        assert_eq!(format("", None), Ok(None));
        for template in [None, Some("")] {
            assert_eq!(format("go-template", template), Err(NO_TEMPLATE.to_owned()));
        }
        assert!(
            format("go-template", Some("{{"))
                .unwrap_err()
                .contains("unclosed action")
        );
    }

    #[test]
    fn failed_go_templates_name_the_place() {
        let one = Objects::of(&[pod("web")], true).unwrap();
        let format: Format = "go-template={{.kind.none}}".parse().unwrap();
        assert_eq!(
            format.print(&one, true).unwrap_err().to_string(),
            "error executing template \"{{.kind.none}}\": template: output:1:7: executing \"output\" at <.kind.none>: \
             can't evaluate field none in type interface {}"
        );
    }

    #[test]
    fn the_data_of_a_failed_template_is_shown_except_for_secrets() {
        let object = |kind: &str| json!({ "kind": kind, "data": { "a": "c2VjcmV0" } });
        assert!(data_for_debugging(&object("ConfigMap")).contains("c2VjcmV0"));
        let list = json!({ "kind": "List", "items": [object("ConfigMap"), object("Secret")] });
        for holding in [object("Secret"), list] {
            let shown = data_for_debugging(&holding);
            assert!(!shown.contains("c2VjcmV0"), "{shown}");
        }
        let template = GoTemplate::parse("{{range .data.a}}{{end}}").unwrap();
        let error = executed(&template, &object("Secret"), true).unwrap_err();
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
    }

    #[test]
    fn missing_fields_are_errors_on_request() {
        let one = Objects::of(&[pod("web")], true).unwrap();
        for format in ["jsonpath={.none}", "jsonpath-as-json={.none}"] {
            let format: Format = format.parse().unwrap();
            assert!(format.clone().allowing_missing(true).print(&one, true).is_ok());
            let error = format.allowing_missing(false).print(&one, true).unwrap_err();
            assert!(error.to_string().ends_with("none is not found"), "{error}");
        }
        let format: Format = "go-template={{.none}}".parse().unwrap();
        let error = format.allowing_missing(false).print(&one, true).unwrap_err();
        assert!(
            error.to_string().ends_with("map has no entry for key \"none\""),
            "{error}"
        );
    }

    #[test]
    fn custom_columns_support_dotted_keys_unions_and_kubectls_values() {
        let object = json!({ "kind": "Pod", "metadata": {
            "name": "web", "labels": { "app.kubernetes.io/name": "shop", "tier": "front" }, "finalizers": ["a", "b"], "none": null,
        } });
        let one = Objects::of(&[object], true).unwrap();
        for (columns, cells) in [
            (r"A:.metadata.labels['app\.kubernetes\.io/name']", "shop"),
            (r"A:.metadata.labels.app\.kubernetes\.io/name", "shop"),
            ("A:['metadata.name', 'metadata.labels.tier']", "web,front"),
            ("A:.metadata['name','none']", "web,<nil>"),
            ("A:.metadata.labels", "map[app.kubernetes.io/name:shop tier:front]"),
            ("A:.metadata.finalizers", "[a b]"),
            ("A:.metadata.finalizers[*]", "a,b"),
            ("A:.metadata.finalizers[?(@!='],a')],B:.kind", "a,b   Pod"),
        ] {
            let text = print(&format!("custom-columns={columns}"), &one);
            assert_eq!(text.lines().nth(1), Some(cells), "{columns}");
        }
    }

    #[test]
    fn unknown_formats_are_refused_with_a_list_of_the_known_ones() {
        for (format, part) in [
            (
                "xml",
                "allowed formats are: custom-columns,custom-columns-file,go-template",
            ),
            ("jsonpath", "no template given"),
            ("jsonpath-file", "no template given"),
            ("jsonpath-file=/no/such", "error reading --template /no/such"),
            ("jsonpath-file=/dev/zero", "larger than 65536 bytes"),
            ("custom-columns-file", "no custom columns file given"),
            ("custom-columns-file=/dev/null", "missing header line"),
            ("jsonpath-as-json={.a", "unclosed action"),
            ("jsonpath={.a", "unclosed action"),
            ("go-template", "no template given"),
            ("templatefile", "no template given"),
            ("go-template-file=/no/such", "error reading --template /no/such"),
            (
                "go-template={{.a}",
                "error parsing template {{.a}, template: output:1: bad character U+007D '}'",
            ),
            ("template={{foo}}", "function \"foo\" not defined"),
            ("custom-columns=A", "expected <header>:<json-path-expr>"),
            ("xml=1", "allowed formats"),
        ] {
            let error = format!("{:#}", format.parse::<Format>().unwrap_err());
            assert!(error.contains(part), "{format}: {error}");
        }
    }
}
