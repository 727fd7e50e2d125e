//! The list of all settings: key in the file, environment variable, allowed values, default.

use std::path::{Path, PathBuf};

use microkube_image::{Compression, LARGEST_MAX_BYTES, LARGEST_MAX_FILES, Options};

use super::expectation::Expectation;
use crate::emulated_host;
use crate::network::DEFAULT_POD_CIDR;
use crate::pod::{self, security_policy};
use crate::privileged::artifacts;
use crate::state;
use crate::volume::ALLOWED_HOST_PATHS;

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// The mapping that has the key.
    pub section: &'static str,
    /// The key.
    pub key: &'static str,
    /// The environment variable, which overrides the file.
    pub variable: &'static str,
    /// The values that it may have.
    pub expectation: Expectation,
    default: Fallback,
}

/// Where a setting's default comes from.
#[derive(Debug)]
enum Fallback {
    /// The text of the variable.
    Fixed(fn() -> String),
    /// A part of the installation, which microkube searches for.
    Searched(fn() -> Option<PathBuf>),
}

impl Setting {
    /// The default as the text of the variable. None: microkube searched for it and did not find it.
    #[must_use]
    pub fn default(&self) -> Option<String> {
        match self.default {
            Fallback::Fixed(value) => Some(value()),
            Fallback::Searched(search) => Some(search()?.display().to_string()),
        }
    }

    /// Whether the default is the result of a search.
    #[must_use]
    pub fn is_searched(&self) -> bool {
        matches!(self.default, Fallback::Searched(_))
    }

    /// Section and key, as in `network.podCIDR`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }
}

/// Variable with the path of the configuration file. Empty: no file is read.
pub const FILE_VARIABLE: &str = "MICROKUBE_CONFIG";

/// The sections of the file, in the order in which they are shown.
pub(super) const SECTIONS: [&str; 6] = ["paths", "network", "images", "vm", "security", "log"];

/// All settings, in the order in which they are shown.
pub static SETTINGS: [Setting; 20] = [
    Setting {
        section: "paths",
        key: "state",
        variable: "MICROKUBE_STATE_DIR",
        expectation: Expectation::Path,
        default: Fallback::Fixed(|| state::DEFAULT_STATE_DIR.to_owned()),
    },
    Setting {
        section: "paths",
        key: "run",
        variable: "MICROKUBE_RUN_DIR",
        expectation: Expectation::Path,
        default: Fallback::Fixed(|| state::DEFAULT_RUN_DIR.to_owned()),
    },
    Setting {
        section: "paths",
        key: "vmm",
        variable: "MICROKUBE_VMM",
        expectation: Expectation::Path,
        default: Fallback::Searched(|| artifacts::vmm_binary().ok()),
    },
    Setting {
        section: "paths",
        key: "fileServer",
        variable: "MICROKUBE_FILE_SERVER",
        expectation: Expectation::Path,
        default: Fallback::Searched(|| artifacts::file_server_binary().ok()),
    },
    Setting {
        section: "paths",
        key: "guest",
        variable: "MICROKUBE_GUEST_DIR",
        expectation: Expectation::Path,
        default: Fallback::Searched(|| artifacts::guest_image().ok()?.kernel.parent().map(Path::to_owned)),
    },
    Setting {
        section: "paths",
        key: "emulatedHost",
        variable: "MICROKUBE_MACHINE_DIR",
        expectation: Expectation::Path,
        default: Fallback::Searched(emulated_host::files),
    },
    Setting {
        section: "network",
        key: "podCIDR",
        variable: "MICROKUBE_POD_CIDR",
        expectation: Expectation::Cidr,
        default: Fallback::Fixed(|| DEFAULT_POD_CIDR.to_owned()),
    },
    Setting {
        section: "images",
        key: "layerMaxFiles",
        variable: "MICROKUBE_LAYER_MAX_FILES",
        expectation: Expectation::Number {
            of: "files",
            max: LARGEST_MAX_FILES,
        },
        default: Fallback::Fixed(|| Options::default().limits.files.to_string()),
    },
    Setting {
        section: "images",
        key: "layerMaxBytes",
        variable: "MICROKUBE_LAYER_MAX_BYTES",
        expectation: Expectation::Number {
            of: "bytes",
            max: LARGEST_MAX_BYTES,
        },
        default: Fallback::Fixed(|| Options::default().limits.bytes.to_string()),
    },
    Setting {
        section: "images",
        key: "layerCompression",
        variable: "MICROKUBE_LAYER_COMPRESSION",
        expectation: Expectation::OneOf(&["none", "lz4"]),
        default: Fallback::Fixed(|| {
            let name = match Options::default().compression {
                Compression::None => "none",
                Compression::Lz4 => "lz4",
            };
            name.to_owned()
        }),
    },
    Setting {
        section: "images",
        key: "keepBlobs",
        variable: "MICROKUBE_KEEP_BLOBS",
        expectation: Expectation::Switch,
        default: Fallback::Fixed(|| Options::default().keep_blobs.to_string()),
    },
    Setting {
        section: "images",
        key: "verifyLayers",
        variable: "MICROKUBE_VERIFY_LAYERS",
        expectation: Expectation::Switch,
        default: Fallback::Fixed(|| Options::default().verify.to_string()),
    },
    Setting {
        section: "vm",
        key: "bootTimeoutSeconds",
        variable: "MICROKUBE_BOOT_TIMEOUT_SECONDS",
        expectation: Expectation::Number {
            of: "seconds",
            max: pod::MAX_BOOT_TIMEOUT_SECONDS,
        },
        default: Fallback::Fixed(|| pod::default_boot_timeout().as_secs().to_string()),
    },
    Setting {
        section: "security",
        key: "allowPrivileged",
        variable: "MICROKUBE_ALLOW_PRIVILEGED",
        expectation: Expectation::Switch,
        default: Fallback::Fixed(|| true.to_string()),
    },
    Setting {
        section: "security",
        key: "allowedUnsafeSysctls",
        variable: "MICROKUBE_ALLOWED_UNSAFE_SYSCTLS",
        expectation: Expectation::Sysctls,
        default: Fallback::Fixed(String::new),
    },
    Setting {
        section: "security",
        key: "seccompProfiles",
        variable: "MICROKUBE_SECCOMP_PROFILES_DIR",
        expectation: Expectation::Path,
        default: Fallback::Fixed(|| security_policy::DEFAULT_SECCOMP_PROFILES.to_owned()),
    },
    Setting {
        section: "security",
        key: "allowedHostPaths",
        variable: ALLOWED_HOST_PATHS,
        expectation: Expectation::HostPaths,
        default: Fallback::Fixed(|| "/".to_owned()),
    },
    Setting {
        section: "log",
        key: "level",
        variable: "MICROKUBE_LOG",
        expectation: Expectation::LogFilter,
        default: Fallback::Fixed(|| "warn".to_owned()),
    },
    Setting {
        section: "log",
        key: "format",
        variable: "MICROKUBE_LOG_FORMAT",
        expectation: Expectation::OneOf(&["text", "json"]),
        default: Fallback::Fixed(|| "text".to_owned()),
    },
    Setting {
        section: "log",
        key: "output",
        variable: "MICROKUBE_LOG_OUTPUT",
        expectation: Expectation::OneOf(&["stderr", "journal"]),
        default: Fallback::Fixed(|| "stderr".to_owned()),
    },
];
