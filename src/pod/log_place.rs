//! The place of a supervisor's log, for messages that refer to it.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use super::launch::supervisor_log;
use crate::state::{Paths, PodRecord};

/// Where the log of a Pod's supervisor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlace {
    /// The file with the supervisor's standard error, or the directory of these files. It contains panics, and the log
    /// if there is no journal.
    path: PathBuf,
    /// The Pod's UID, if the log goes to the journal.
    uid_in_journal: Option<String>,
}

impl LogPlace {
    /// The place of a supervisor that has the settings of this process. Without its record, the name of its file is
    /// unknown.
    #[must_use]
    pub fn new(paths: &Paths, uid: &str, record: Option<&PodRecord>) -> Self {
        let output = std::env::var_os("MICROKUBE_LOG_OUTPUT");
        Self::with_output(paths, uid, record, output.as_deref())
    }

    fn with_output(paths: &Paths, uid: &str, record: Option<&PodRecord>, output: Option<&OsStr>) -> Self {
        Self {
            path: record.map_or_else(|| paths.logs(), |record| supervisor_log(paths, record)),
            uid_in_journal: output.filter(|output| *output == "journal").map(|_| uid.to_owned()),
        }
    }
}

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.uid_in_journal {
            None => write!(f, "the log {path}"),
            Some(uid) => write!(f, "`journalctl MICROKUBE_POD_UID={uid}` and {path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::test_pods::record_of;

    #[test]
    fn the_journal_is_named_if_it_has_the_log() {
        let paths = Paths::new("/state".into(), "/run".into());
        let mut record = record_of(&serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1" }] },
        }));
        (record.namespace, record.name, record.uid) = ("shop".to_owned(), "web".to_owned(), "u-1".to_owned());
        let shown = |record, output: Option<&str>| {
            LogPlace::with_output(&paths, "u-1", record, output.map(OsStr::new)).to_string()
        };
        let file = "/state/logs/shop_web_u-1.supervisor.log";
        for output in [None, Some(""), Some("stderr"), Some("nonsense")] {
            assert_eq!(shown(Some(&record), output), format!("the log {file}"));
        }
        assert_eq!(shown(None, None), "the log /state/logs");
        assert_eq!(
            shown(Some(&record), Some("journal")),
            format!("`journalctl MICROKUBE_POD_UID=u-1` and {file}")
        );
        assert_eq!(
            shown(None, Some("journal")),
            "`journalctl MICROKUBE_POD_UID=u-1` and /state/logs"
        );
    }
}
