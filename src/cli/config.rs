//! `microkube config`: the settings in force.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::failure::Failure;
use super::print::{emit, json_text};
use super::table::padded;
use super::yaml::plain_or_quoted;
use crate::config::{Config, Effective, Setting, Source, read};

/// Show the settings of this host
///
/// Settings come from environment variables, from /etc/microkube/config.yaml or the file that MICROKUBE_CONFIG names,
/// and from defaults, in this order.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  microkube config view")]
pub struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    View(ViewArgs),
}

/// Print the settings in force and where each comes from
///
/// The source of a setting is the default, a line of the configuration file, or an environment variable. As YAML, the
/// output is itself a configuration file. Defaults, and values of variables that a file cannot have, are comments.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  microkube config view\n  microkube config view > config.yaml\n  MICROKUBE_CONFIG=config.yaml microkube config view -o json"
)]
struct ViewArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Yaml,
    Json,
}

/// Runs the verb.
pub(super) fn run(args: ConfigArgs, config: &Config) -> Result<ExitCode, Failure> {
    let Verb::View(args) = args.verb;
    let settings = config.settings()?;
    let file = config.file().map(|file| file.display().to_string());
    let text = match args.output {
        Output::Yaml => yaml(file.as_deref(), &settings),
        Output::Json => json_text(&json(file.as_deref(), &settings)),
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

type Settings = [(&'static Setting, Effective)];

/// A configuration file with these settings, and their sources as comments. Defaults are comments as well: some depend
/// on the host and on where the program is installed, so a file that sets them would be wrong elsewhere.
fn yaml(file: Option<&str>, settings: &Settings) -> String {
    let lines: Vec<(String, String)> = settings
        .iter()
        .map(|(setting, effective)| {
            let value = match &effective.value {
                Value::Null => return (format!("  # {}:", setting.key), "not found".to_owned()),
                Value::String(text) => plain_or_quoted(text),
                other => ascii(&other.to_string()),
            };
            let (mark, source) = match effective.source {
                Source::Default => ("# ", "default".to_owned()),
                Source::File { line } => ("", format!("{}:{line}", file.unwrap_or_default())),
                Source::Variable if fits_file(setting, &value, &effective.value) => ("", setting.variable.to_owned()),
                Source::Variable => ("# ", format!("{}, not valid in a file", setting.variable)),
            };
            (format!("  {mark}{}: {value}", setting.key), source)
        })
        .collect();
    let width = lines
        .iter()
        .map(|(line, _)| line.chars().count())
        .max()
        .unwrap_or_default();
    let mut text = String::new();
    let mut section = "";
    for ((setting, _), (line, source)) in settings.iter().zip(&lines) {
        if setting.section != section {
            section = setting.section;
            let _ = writeln!(text, "{section}:");
        }
        // A file's name may have line breaks.
        let _ = writeln!(text, "{} # {}", padded(line, width), super::print::on_one_line(source));
    }
    // YAML does not allow these characters, not even in comments.
    text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}

/// Escapes what is not ASCII in JSON, because YAML allows fewer characters.
fn ascii(json: &str) -> String {
    let mut text = String::new();
    for character in json.chars() {
        match u32::from(character) {
            0..0x7f => text.push(character),
            number => {
                let _ = write!(text, "\\U{number:08x}");
            }
        }
    }
    text
}

/// Whether a configuration file with this YAML has this value. Variables are read less strictly than the file, and may
/// have bytes that are not UTF-8.
fn fits_file(setting: &Setting, yaml: &str, value: &Value) -> bool {
    let text = format!("{}:\n  {}: {yaml}\n", setting.section, setting.key);
    let file = read("", text.as_bytes()).ok();
    let given = file.as_ref().and_then(|file| file.text_of(setting));
    !yaml.contains(char::REPLACEMENT_CHARACTER)
        && given.is_some_and(|text| setting.expectation.of_variable(text).as_ref() == Ok(value))
}

fn json(file: Option<&str>, settings: &Settings) -> Value {
    let settings = settings.iter().map(|(setting, effective)| {
        let (source, line) = match effective.source {
            Source::Default => ("default", None),
            Source::File { line } => ("file", Some(line)),
            Source::Variable => ("variable", None),
        };
        let mut shown = json!({
            "key": setting.path(),
            "value": effective.value,
            "source": source,
            "variable": setting.variable,
        });
        if let (Some(line), Some(shown)) = (line, shown.as_object_mut()) {
            shown.insert("line".to_owned(), line.into());
        }
        shown
    });
    json!({ "file": file, "settings": settings.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::SETTINGS;

    fn settings() -> Vec<(&'static Setting, Effective)> {
        let effective = |setting: &Setting| match setting.key {
            "state" => (json!("/srv/micro kube"), Source::File { line: 3 }),
            "run" => (json!("/run/# odd: \"name\""), Source::Variable),
            "podCIDR" => (json!("10.9.0.0/16"), Source::Variable),
            // Whether microkube finds these files depends on what has been built.
            "vmm" | "guest" | "emulatedHost" => (Value::Null, Source::Default),
            "keepBlobs" => (json!(false), Source::File { line: 12 }),
            _ => {
                let default = setting.default();
                let value = default.map(|text| setting.expectation.of_variable(&text).unwrap());
                (value.unwrap_or_default(), Source::Default)
            }
        };
        let settings = SETTINGS.iter().map(|setting| {
            let (value, source) = effective(setting);
            (setting, Effective { value, source })
        });
        settings.collect()
    }

    #[test]
    fn every_setting_is_printed_with_its_source() {
        let expected = r#"paths:
  state: /srv/micro kube                    # /etc/m.yaml:3
  run: '/run/# odd: "name"'                 # MICROKUBE_RUN_DIR
  # vmm:                                    # not found
  # fileServer:                             # not found
  # guest:                                  # not found
  # emulatedHost:                           # not found
network:
  podCIDR: 10.9.0.0/16                      # MICROKUBE_POD_CIDR
images:
  # layerMaxFiles: 4000000                  # default
  # layerMaxBytes: 68719476736              # default
  # layerCompression: none                  # default
  keepBlobs: false                          # /etc/m.yaml:12
  # verifyLayers: false                     # default
vm:
  # bootTimeoutSeconds: 10                  # default
security:
  # allowPrivileged: true                   # default
  # allowedUnsafeSysctls: []                # default
  # seccompProfiles: /etc/microkube/seccomp # default
  # allowedHostPaths: ["/"]                 # default
log:
  # level: warn                             # default
  # format: text                            # default
  # output: stderr                          # default
"#;
        // Guests have more time to boot in the emulated host.
        let seconds = crate::pod::default_boot_timeout().as_secs();
        let shown = yaml(Some("/etc/m.yaml"), &settings());
        assert_eq!(shown.replace(&format!("Seconds: {seconds}"), "Seconds: 10"), expected);
    }

    #[test]
    fn what_is_printed_is_a_configuration_file_with_the_same_settings_and_no_defaults() {
        let shown = yaml(Some("odd\nname"), &settings());
        let file = read("view.yaml", shown.as_bytes()).unwrap();
        for (setting, effective) in settings() {
            let value = file
                .text_of(setting)
                .map(|text| setting.expectation.of_variable(text).unwrap());
            let expected = (effective.source != Source::Default).then_some(effective.value);
            assert_eq!(value, expected, "{}", setting.key);
        }
    }

    fn of_variable(setting: &'static Setting, text: &str) -> Option<Effective> {
        let value = setting.expectation.of_variable(text).ok()?;
        let source = Source::Variable;
        Some(Effective { value, source })
    }

    #[test]
    fn values_that_only_a_variable_can_have_are_comments() {
        for (key, text, expected) in [
            (
                "level",
                "microkube",
                "  # level: microkube # MICROKUBE_LOG, not valid in a file\n",
            ),
            ("level", "microkube=debug", "  level: microkube=debug # MICROKUBE_LOG\n"),
            ("level", "off", "  level: \"off\" # MICROKUBE_LOG\n"),
            ("keepBlobs", "no", "  keepBlobs: false # MICROKUBE_KEEP_BLOBS\n"),
            (
                "layerMaxFiles",
                "007",
                "  layerMaxFiles: 7 # MICROKUBE_LAYER_MAX_FILES\n",
            ),
            // There is no directory to resolve it against.
            ("vmm", "a/b", "  # vmm: a/b # MICROKUBE_VMM, not valid in a file\n"),
            (
                "vmm",
                "/a\u{fffd}",
                "  # vmm: /a\u{fffd} # MICROKUBE_VMM, not valid in a file\n",
            ),
        ] {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).unwrap();
            let effective = of_variable(setting, text).unwrap();
            let shown = yaml(None, &[(setting, effective)]);
            assert_eq!(shown, format!("{}:\n{expected}", setting.section));
        }
    }

    proptest! {
        /// Holds for any accepted values of variables and any name of the file.
        #[test]
        fn what_is_printed_is_always_a_configuration_file(
            texts in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<char>(), 0..8).prop_map(|text| text.into_iter().collect::<String>()),
                    "/[ -~\u{85}\u{a0}\u{feff}\u{fffd}-\u{10000}]{0,8}",
                ],
                SETTINGS.len(),
            ),
            level in "[a-z=, :#\u{fffe}-]{0,8}",
            file in "[ -~\n\u{85}\u{feff}\u{fffd}-\u{10000}]{0,8}",
        ) {
            let settings: Vec<_> = SETTINGS
                .iter()
                .zip(&texts)
                .filter_map(|(setting, text)| {
                    let text = if setting.key == "level" { &level } else { text };
                    Some((setting, of_variable(setting, text)?))
                })
                .collect();
            let shown = yaml(Some(&file), &settings);
            let file = read("view.yaml", shown.as_bytes())
                .map_err(|problems| TestCaseError::fail(format!("{problems}\n{shown}")))?;
            for (setting, effective) in settings {
                if let Some(text) = file.text_of(setting) {
                    prop_assert_eq!(setting.expectation.of_variable(text), Ok(effective.value), "{}", shown);
                }
            }
        }
    }

    #[test]
    fn json_has_the_source_as_a_word_and_the_line_of_the_file() {
        let shown = json(Some("/etc/m.yaml"), &settings());
        assert_eq!(shown["file"], "/etc/m.yaml");
        let of = |key: &str| {
            let settings = shown["settings"].as_array().unwrap();
            settings.iter().find(|setting| setting["key"] == key).unwrap().clone()
        };
        assert_eq!(
            of("images.keepBlobs"),
            json!({ "key": "images.keepBlobs", "value": false, "source": "file", "line": 12, "variable": "MICROKUBE_KEEP_BLOBS" })
        );
        assert_eq!(
            of("paths.vmm"),
            json!({ "key": "paths.vmm", "value": null, "source": "default", "variable": "MICROKUBE_VMM" })
        );
        assert_eq!(of("network.podCIDR")["source"], "variable");
    }
}
