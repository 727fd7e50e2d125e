//! Limits on an image's configuration. A configuration with which no process could start is refused when the image is
//! added, not when it runs.

use oci_spec::image::ImageConfiguration;

use super::error::PullError;

/// Maximum length of one argument or variable, in bytes (`MAX_ARG_STRLEN` of Linux, which includes the terminating
/// NUL).
const STRING_MAX_BYTES: usize = 128 * 1024 - 1;
/// Maximum total size of all arguments and variables, in bytes; Linux allows a quarter of the stack limit, 2 MiB by
/// default.
const STRINGS_MAX_BYTES: usize = 1 << 20;
/// Maximum number of arguments and variables.
const STRINGS_MAX: usize = 10_000;
/// `PATH_MAX` of Linux without the terminating NUL.
const PATH_MAX_BYTES: usize = 4095;
/// Maximum length of a user and group in bytes, more than any in `/etc/passwd`.
const USER_MAX_BYTES: usize = 256;

/// Refuses a configuration with which no process could start.
pub(super) fn check(config: &ImageConfiguration) -> Result<(), PullError> {
    let Some(config) = config.config() else { return Ok(()) };
    let refuse = |why: String| Err(PullError::invalid("configuration", why));
    let lists = [
        ("Env", config.env()),
        ("Entrypoint", config.entrypoint()),
        ("Cmd", config.cmd()),
    ];
    let (mut count, mut bytes) = (0usize, 0usize);
    for (name, list) in lists {
        for text in list.iter().flatten() {
            if text.len() > STRING_MAX_BYTES {
                return refuse(format!(
                    "an entry of {name} has {} bytes; the maximum is {STRING_MAX_BYTES}",
                    text.len()
                ));
            }
            if text.contains('\0') {
                return refuse(format!("an entry of {name} contains a NUL character"));
            }
            count += 1;
            bytes = bytes.saturating_add(text.len());
        }
    }
    if count > STRINGS_MAX || bytes > STRINGS_MAX_BYTES {
        return refuse(format!(
            "Env, Entrypoint and Cmd have {count} entries and {bytes} bytes; the maximum is {STRINGS_MAX} entries and {STRINGS_MAX_BYTES} bytes"
        ));
    }
    if let Some(directory) = config.working_dir()
        && (directory.len() > PATH_MAX_BYTES || directory.contains('\0'))
    {
        return refuse("WorkingDir is not a valid path".to_owned());
    }
    if let Some(user) = config.user()
        && (user.len() > USER_MAX_BYTES || user.chars().any(|c| c.is_control() || c.is_whitespace()))
    {
        return refuse("User is not a valid user or group".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(config: serde_json::Value) -> Result<(), String> {
        let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [] } });
        check(&serde_json::from_value(config).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn configurations_of_real_images_are_accepted() {
        for config in [
            serde_json::json!({}),
            serde_json::json!({ "Env": ["PATH=/bin", "EMPTY="], "Cmd": ["sh"], "User": "1000:www-data", "WorkingDir": "/srv" }),
            serde_json::json!({ "Labels": { "long": "x".repeat(1 << 20) }, "User": "", "WorkingDir": "" }),
        ] {
            assert_eq!(checked(config), Ok(()));
        }
    }

    #[test]
    fn values_unusable_for_a_process_are_refused() {
        for (config, what) in [
            (
                serde_json::json!({ "Env": [format!("A={}", "x".repeat(1 << 20))] }),
                "an entry of Env",
            ),
            (serde_json::json!({ "Env": vec!["A=b"; 20_000] }), "20000 entries"),
            (
                serde_json::json!({ "Cmd": vec!["x".repeat(100_000); 20] }),
                "2000000 bytes",
            ),
            (serde_json::json!({ "Entrypoint": ["a\0b"] }), "NUL"),
            (serde_json::json!({ "User": "x".repeat(1000) }), "User"),
            (serde_json::json!({ "User": "a\u{1b}[2J" }), "User"),
            (serde_json::json!({ "WorkingDir": "/a".repeat(4000) }), "WorkingDir"),
        ] {
            let error = checked(config).unwrap_err();
            assert!(
                error.contains(what) && error.chars().all(|c| !c.is_control()),
                "{error}"
            );
        }
    }
}
