mod faulty;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::file::load_from;
use super::settings::{FILE_VARIABLE, SECTIONS};
use super::*;

/// The messages about a file with this text, without its name.
fn faults(text: &[u8]) -> Vec<String> {
    let problems = match read("c.yaml", text) {
        Ok(settings) => panic!("{:?}: {settings:?}", String::from_utf8_lossy(text)),
        Err(problems) => problems.to_string(),
    };
    let lines = problems.lines();
    lines
        .map(|line| line.strip_prefix("c.yaml:").unwrap().to_owned())
        .collect()
}

fn given(text: &str) -> Vec<(&'static str, String)> {
    let file = read("c.yaml", text.as_bytes()).unwrap_or_else(|problems| panic!("{problems}"));
    let given = SETTINGS
        .iter()
        .map(|setting| Some((setting.variable, file.text_of(setting)?.to_owned())));
    given.flatten().collect()
}

#[test]
fn every_setting_is_read_as_its_variable_has_it() {
    let text = "paths: {state: /s, run: /r, vmm: /v, fileServer: /f, guest: '/g h', emulatedHost: \"/e\"}\n\
                network:\n  podCIDR: 10.99.0.0/16\n\
                images:\n  layerMaxFiles: 1\n  layerMaxBytes: 17592186044416\n  layerCompression: lz4\n  keepBlobs: false\n  verifyLayers: true\n\
                vm: {bootTimeoutSeconds: 0x1E}\n\
                security:\n  allowPrivileged: false\n  allowedUnsafeSysctls: [kernel.msg*, \"net.core.somaxconn\"]\n  seccompProfiles: /p\n  allowedHostPaths: [/srv/a, \"/b c\"]\n\
                log:\n  level: warn,microkube::pod=debug\n  format: json\n  output: journal\n";
    let expected = [
        ("MICROKUBE_STATE_DIR", "/s"),
        ("MICROKUBE_RUN_DIR", "/r"),
        ("MICROKUBE_VMM", "/v"),
        ("MICROKUBE_FILE_SERVER", "/f"),
        ("MICROKUBE_GUEST_DIR", "/g h"),
        ("MICROKUBE_MACHINE_DIR", "/e"),
        ("MICROKUBE_POD_CIDR", "10.99.0.0/16"),
        ("MICROKUBE_LAYER_MAX_FILES", "1"),
        ("MICROKUBE_LAYER_MAX_BYTES", "17592186044416"),
        ("MICROKUBE_LAYER_COMPRESSION", "lz4"),
        ("MICROKUBE_KEEP_BLOBS", "false"),
        ("MICROKUBE_VERIFY_LAYERS", "true"),
        ("MICROKUBE_BOOT_TIMEOUT_SECONDS", "30"),
        ("MICROKUBE_ALLOW_PRIVILEGED", "false"),
        ("MICROKUBE_ALLOWED_UNSAFE_SYSCTLS", "kernel.msg*,net.core.somaxconn"),
        ("MICROKUBE_SECCOMP_PROFILES_DIR", "/p"),
        ("MICROKUBE_ALLOWED_HOST_PATHS", "/srv/a,/b c"),
        ("MICROKUBE_LOG", "warn,microkube::pod=debug"),
        ("MICROKUBE_LOG_FORMAT", "json"),
        ("MICROKUBE_LOG_OUTPUT", "journal"),
    ];
    assert_eq!(
        given(text),
        expected.map(|(variable, text)| (variable, text.to_owned()))
    );
}

#[test]
fn a_file_may_set_nothing() {
    for text in [
        "",
        "\u{feff}",
        "# nothing\n",
        "---\n",
        "--- ~\n...\n",
        "{}",
        "paths:\nnetwork: {}\nlog: # nothing\n",
    ] {
        assert_eq!(given(text), [], "{text:?}");
    }
}

#[test]
fn anchors_may_be_used() {
    assert_eq!(
        given("paths: {state: &dir /srv, run: *dir}\n"),
        [
            ("MICROKUBE_STATE_DIR", "/srv".to_owned()),
            ("MICROKUBE_RUN_DIR", "/srv".to_owned())
        ]
    );
}

#[test]
fn non_text_bytes_are_refused_with_their_place() {
    assert_eq!(
        faults(b"# \xc3\xa4\nlog: \xff"),
        ["2:6: not valid YAML: a byte that is not UTF-8"]
    );
    assert_eq!(
        faults(b"\xff\xfel\0o\0g\0"),
        ["1:1: not valid YAML: a byte that is not UTF-8"]
    );
    assert_eq!(
        faults(b"log: \0"),
        ["1:6: not valid YAML: control characters are not allowed"]
    );
}

#[test]
fn the_first_of_many_problems_are_reported_and_the_others_counted() {
    let faults_of = |count: usize| {
        let lines = (0..count).map(|number| format!("key{number}: {number}\n"));
        faults(lines.collect::<String>().as_bytes())
    };
    assert_eq!(faults_of(20).len(), 20);
    for (count, last) in [(21, " and 1 more error"), (1000, " and 980 more errors")] {
        let faults = faults_of(count);
        assert_eq!((faults.len(), &*faults[20]), (21, last));
        assert!(faults[19].starts_with("20:1: "), "{}", faults[19]);
    }
}

#[test]
fn long_keys_and_values_are_shortened() {
    let text = format!("{}: 1\nlog: {{level: {}}}\n", "k".repeat(900), "v".repeat(900));
    assert!(faults(text.as_bytes()).iter().all(|line| line.chars().count() < 300));
}

#[test]
fn every_section_has_settings_and_their_names_differ() {
    let sections: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.section).collect();
    assert_eq!(sections, SECTIONS.into_iter().collect());
    let names: BTreeSet<_> = SETTINGS
        .iter()
        .flat_map(|setting| [setting.path(), setting.variable.to_owned()])
        .collect();
    assert_eq!(names.len(), 2 * SETTINGS.len());
}

fn source_tree(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The example with everything commented out, and with all keys as they would be set.
fn example() -> (String, String) {
    let text = fs::read_to_string(source_tree("examples/config.yaml")).unwrap();
    let set = text.lines().map(|line| {
        let content = line.trim_start();
        let is_key = content
            .strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(char::is_alphabetic));
        if is_key {
            line.replacen('#', "", 1)
        } else {
            line.to_owned()
        }
    });
    let set = set.collect::<Vec<_>>().join("\n");
    (text, set)
}

#[test]
fn the_example_sets_nothing_and_has_every_key_at_its_default() {
    let (text, set) = example();
    assert_eq!(given(&text), []);
    let given = given(&set);
    let keys = given.iter().map(|(variable, _)| *variable);
    assert!(keys.eq(SETTINGS.iter().map(|setting| setting.variable)), "{given:?}");
    for (setting, (_, text)) in SETTINGS.iter().zip(&given) {
        // In the emulated host guests have more time.
        let is_fixed = !setting.is_searched() && setting.key != "bootTimeoutSeconds";
        let default = setting.default().filter(|_| is_fixed);
        assert_eq!(default.as_ref().unwrap_or(text), text, "{}", setting.path());
        assert!(set.contains(&format!("({})", setting.variable)), "{}", setting.path());
    }
}

#[test]
fn the_documentation_has_every_key_with_its_variable_and_its_default() {
    let text = fs::read_to_string(source_tree("docs/configuration.md")).unwrap();
    for setting in &SETTINGS {
        let default = match setting.default() {
            _ if setting.is_searched() => "searched".to_owned(),
            Some(default) if default.is_empty() => "`[]`".to_owned(),
            Some(default) if setting.key != "bootTimeoutSeconds" => format!("`{default}`"),
            _ => "`10`".to_owned(),
        };
        let row = format!("| `{}` | `{}` | {default} |", setting.path(), setting.variable);
        assert!(text.contains(&row), "{row}");
    }
    let examples: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(!examples.is_empty());
    examples.into_iter().for_each(|example| assert_ne!(given(example), []));
}

/// Variables that are not settings: they name the file, are read when microkube is built, are set by one process for
/// another, or are fields of the journal. Those of tests begin with `MICROKUBE_TEST_`, with one exception.
const OTHER_VARIABLES: [&str; 6] = [
    "MICROKUBE_CONFIG",
    "MICROKUBE_COMPLETE",
    "MICROKUBE_EMULATED_HOST",
    "MICROKUBE_POD_UID",
    "MICROKUBE_WRITE_EXPECTED",
    "MICROKUBE_COMMIT",
];

#[test]
fn every_variable_of_the_sources_is_a_setting() {
    let known: BTreeSet<&str> = SETTINGS
        .iter()
        .map(|setting| setting.variable)
        .chain(OTHER_VARIABLES)
        .collect();
    let mut directories = ["src", "crates", "vmm/src", "agent/src"].map(source_tree).to_vec();
    let mut found = BTreeSet::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let names = text.split("MICROKUBE_").skip(1).map(|rest| {
                    let end = rest
                        .find(|c: char| !c.is_ascii_uppercase() && c != '_')
                        .unwrap_or(rest.len());
                    format!("MICROKUBE_{}", &rest[..end])
                });
                found.extend(
                    names
                        .filter(|name| !name.ends_with('_') && !name.starts_with("MICROKUBE_TEST_"))
                        .map(|name| (name, path.clone())),
                );
            }
        }
    }
    let unknown: Vec<_> = found.iter().filter(|(name, _)| !known.contains(&**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    // The configuration names every variable. Something else has to use it.
    let own = ["src/config", "src/cli/config.rs"].map(source_tree);
    let used: BTreeSet<&str> = found
        .iter()
        .filter(|(_, path)| !own.iter().any(|own| path.starts_with(own)))
        .map(|(name, _)| &**name)
        .chain([FILE_VARIABLE, INSIDE])
        .collect();
    assert!(known.is_subset(&used), "{:?}", known.difference(&used));
}

#[test]
fn a_default_file_that_is_missing_is_fine_and_a_named_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (missing, file) = (dir.path().join("missing.yaml"), dir.path().join("config.yaml"));
    fs::write(&file, "log:\n  level: debug\n").unwrap();
    assert_eq!(load_from(None, &missing).unwrap().file(), None);
    assert_eq!(load_from(None, &file).unwrap().file(), Some(&*file));
    assert_eq!(load_from(Some(&file), &missing).unwrap().file(), Some(&*file));
    assert_eq!(load_from(Some(Path::new("")), &file).unwrap().file(), None);
    assert_eq!(
        load_from(Some(&missing), &file).unwrap_err().to_string(),
        format!(
            "MICROKUBE_CONFIG names the configuration file {}, which does not exist",
            missing.display()
        )
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    let message = || {
        let error = load_from(None, &path).unwrap_err();
        microkube_base::causes::with_causes(&error).replace(&path.display().to_string(), "FILE")
    };
    fs::write(&path, "#".repeat(64 << 10)).unwrap();
    assert!(load_from(None, &path).is_ok());
    fs::write(&path, "#".repeat((64 << 10) + 1)).unwrap();
    assert_eq!(message(), "the configuration file FILE is larger than 64 KiB");
    fs::write(&path, "nonsense: 1\nlog: {level: 7}\n").unwrap();
    assert_eq!(
        message().lines().collect::<Vec<_>>(),
        [
            "FILE:1:1: unknown key \"nonsense\"; expected one of paths, network, images, vm, security, log",
            "FILE:2:14: log.level: expected a log level (off, error, warn, info, debug, trace) or directives such as microkube=debug, found the number 7",
        ]
    );
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(message(), "the configuration file FILE is not a regular file");
    fs::remove_dir(&path).unwrap();
    // No process writes to it.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(message(), "the configuration file FILE is not a regular file");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    assert!(
        message().starts_with("cannot read the configuration file FILE: "),
        "{}",
        message()
    );
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("missing.yaml", &path).unwrap();
    assert_eq!(
        message(),
        "the configuration file FILE is a symbolic link to a file that does not exist"
    );
}

#[test]
fn variables_are_checked_before_they_are_shown() {
    let setting = |key: &str| SETTINGS.iter().find(|setting| setting.key == key).unwrap();
    let value = |key: &str, text: &str| setting(key).expectation.of_variable(text);
    assert_eq!(value("keepBlobs", "no"), Ok(false.into()));
    assert_eq!(value("layerMaxFiles", "7"), Ok(7.into()));
    assert_eq!(value("state", "relative"), Ok("relative".into()));
    assert_eq!(
        value("allowedUnsafeSysctls", "net.*, kernel.sem"),
        Ok(vec!["net.*", "kernel.sem"].into())
    );
    assert_eq!(
        value("allowedUnsafeSysctls", ""),
        Ok(serde_json::Value::Array(Vec::new()))
    );
    // A target without a level.
    assert_eq!(value("level", "microkube"), Ok("microkube".into()));
    assert_eq!(
        value("keepBlobs", "maybe"),
        Err("expected true or false, found the string \"maybe\"".to_owned())
    );
    for (key, text) in [
        ("podCIDR", "10"),
        ("layerMaxFiles", "-1"),
        ("level", "a=b"),
        ("format", "xml"),
        ("allowedUnsafeSysctls", "vm.swappiness"),
    ] {
        assert!(value(key, text).is_err(), "{key} {text}");
    }
}

/// Set in the process that exports its configuration.
const INSIDE: &str = "MICROKUBE_TEST_CONFIG";

#[test]
fn started_processes_have_the_settings_of_the_file_and_variables_win() {
    if std::env::var_os(INSIDE).is_some() {
        let config = load().unwrap();
        // SAFETY: this process runs one test, in its only thread.
        unsafe { config.export() };
        // The values that the command line shows, before the file changes.
        for (setting, effective) in config.settings().unwrap() {
            println!(
                "\nshown {}={} {:?}",
                setting.variable, effective.value, effective.source
            );
        }
        // From here on the file has other content; no process of this command reads it.
        fs::write(config.file().unwrap(), "log: {level: trace}\nnonsense").unwrap();
        assert_eq!(load().unwrap().file(), None);
        let status = microkube_base::child::command("env").status().unwrap();
        std::process::exit(status.code().unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    fs::write(
        &file,
        "paths: {state: /of/file, run: /of/file}\n# nothing\nlog:\n  level: debug\nimages: {keepBlobs: false}\n",
    )
    .unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = "config::tests::started_processes_have_the_settings_of_the_file_and_variables_win";
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
    SETTINGS.iter().for_each(|setting| {
        command.env_remove(setting.variable);
    });
    command
        .env("MICROKUBE_CONFIG", &file)
        .env("MICROKUBE_STATE_DIR", "/of/variable")
        .env("MICROKUBE_VMM", "./of/directory")
        .env("DOCKER_CONFIG", "of/docker")
        .env("MICROKUBE_LOG", "");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let lines: BTreeSet<&str> = stdout.lines().collect();
    let here = std::env::current_dir().unwrap();
    for line in [
        "MICROKUBE_STATE_DIR=/of/variable",
        "MICROKUBE_RUN_DIR=/of/file",
        "MICROKUBE_LOG=debug",
        "MICROKUBE_KEEP_BLOBS=false",
        "MICROKUBE_CONFIG=",
        "shown MICROKUBE_STATE_DIR=\"/of/variable\" Variable",
        &format!("shown MICROKUBE_VMM={:?} Variable", here.join("of/directory")),
        &format!("MICROKUBE_VMM={}", here.join("of/directory").display()),
        &format!("DOCKER_CONFIG={}", here.join("of/docker").display()),
        "shown MICROKUBE_RUN_DIR=\"/of/file\" File { line: 1 }",
        "shown MICROKUBE_LOG=\"debug\" File { line: 4 }",
        "shown MICROKUBE_KEEP_BLOBS=false File { line: 5 }",
        "shown MICROKUBE_POD_CIDR=\"10.88.0.0/16\" Default",
    ] {
        assert!(lines.contains(line), "{line}\n{stdout}");
    }
    assert!(
        !stdout.contains("\nMICROKUBE_POD_CIDR="),
        "unset variables are not passed on:\n{stdout}"
    );
}

/// Something that looks like a configuration file.
fn any_file() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        proptest::sample::select(
            SETTINGS
                .iter()
                .map(|setting| setting.key.to_owned())
                .collect::<Vec<_>>()
        ),
        proptest::sample::select(SECTIONS.map(str::to_owned).to_vec()),
        "[a-z<*&!?\\[{\"' ]{0,6}",
    ];
    let value = prop_oneof![
        "[-a-z0-9:{}\\[\\]&*!|>'\"#?,\\t ./~<=\u{e4}]{0,12}",
        proptest::sample::select(vec![
            "/a",
            "10.0.0.0/8",
            "true",
            "debug",
            "1",
            "~",
            "&a x",
            "*a",
            "!t x",
            "lz4",
            "json",
            "[a, {b: c}]"
        ])
        .prop_map(str::to_owned),
    ];
    let line = (0..4_usize, key, value).prop_map(|(depth, key, value)| format!("{:depth$}{key}: {value}\n", ""));
    let other = proptest::sample::select(vec![
        "---\n",
        "...\n",
        "# x\n",
        "\t",
        "\r",
        "\u{85}",
        "\0",
        "%YAML 1.1\n",
    ]);
    let part = prop_oneof![
        8 => line,
        2 => proptest::sample::select(SECTIONS.to_vec()).prop_map(|section| format!("{section}:\n")),
        1 => other.prop_map(str::to_owned),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    match read("c.yaml", bytes) {
        Ok(file) => {
            for setting in &SETTINGS {
                if let Some((text, line)) = file.get(setting) {
                    prop_assert!(line >= 1);
                    prop_assert!(setting.expectation.of_variable(text).is_ok(), "{text:?}");
                }
            }
        }
        Err(problems) => {
            prop_assert!(!problems.list.is_empty());
            for problem in &problems.list {
                prop_assert!(
                    problem.place.is_none_or(|(line, column)| line >= 1 && column >= 1),
                    "{problem:?}"
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&bytes)?;
    }

    #[test]
    fn any_text_like_a_configuration_is_understood_or_refused(text in any_file()) {
        check(text.as_bytes())?;
    }

    /// A single fault is reported at the place where it was put.
    #[test]
    fn a_wrong_value_is_found_in_its_line(before in 0..40_usize, setting in proptest::sample::select(SETTINGS.iter().collect::<Vec<_>>())) {
        let text = format!("{}{}:\n  {}: [wrong]\n", "# comment\n".repeat(before), setting.section, setting.key);
        let problems = read("c.yaml", text.as_bytes()).unwrap_err();
        prop_assert_eq!(problems.list.len(), 1);
        prop_assert_eq!(problems.list[0].place, Some((before + 2, setting.key.len() + 5)));
        prop_assert!(problems.list[0].message.starts_with(&setting.path()));
    }
}
