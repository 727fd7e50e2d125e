//! Deletes an object that a verb creates again: `replace --force` and `apply --force`.

use std::time::Duration;

use anyhow::bail;
use microkube_manifest::kinds::Kind;
use microkube_store::Key;

use super::super::duration::{Timeout, duration};
use super::cascade::Cascade;
use super::objects::{Deleted, Deletions};
use super::selected::Selected;
use crate::objects::Objects;
use crate::pod::operations::delete::DeleteOptions;
use crate::state::{Paths, PodRecords};

/// How `--force` deletes objects.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(in crate::cli) struct ReplacedArgs {
    /// With --force: give the Pods this many seconds to terminate; negative means each Pod's own grace period
    #[arg(long, default_value_t = -1, allow_hyphen_values = true, value_name = "SECONDS")]
    grace_period: i64,
    /// With --force: how long to wait for an object to be gone; 0 means no limit
    #[arg(long, default_value = "0s", value_parser = duration, allow_hyphen_values = true, value_name = "DURATION")]
    timeout: Timeout,
    /// Accepted as in kubectl, without effect: --force always waits for an object to be gone
    #[arg(long = "wait", action = clap::ArgAction::Set, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    _wait: bool,
    /// With --force: delete the dependents of the deleted objects (background, foreground) or keep them (orphan)
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value_t = Cascade::Background, default_missing_value = "background", value_name = "HOW")]
    cascade: Cascade,
}

impl ReplacedArgs {
    /// The defaults of the flags.
    #[cfg(test)]
    pub(in crate::cli) const DEFAULT: Self = Self {
        grace_period: -1,
        timeout: Timeout(Duration::ZERO),
        _wait: true,
        cascade: Cascade::Background,
    };

    /// Checks that the arguments make sense without `--force`.
    ///
    /// # Errors
    /// If they do not.
    pub(in crate::cli) fn check_without_force(&self) -> anyhow::Result<()> {
        if self.grace_period >= 0 {
            bail!("--grace-period must have --force specified");
        }
        if !self.timeout.0.is_zero() {
            bail!("--timeout must have --force specified");
        }
        Ok(())
    }

    fn options(&self) -> DeleteOptions {
        DeleteOptions {
            grace: u64::try_from(self.grace_period).ok().map(Duration::from_secs),
            waits: true,
            timeout: Some(self.timeout.0).filter(|timeout| !timeout.is_zero()),
        }
    }

    /// Deletes an object, if it exists, and waits until it is gone. Passes an output line to `tell`.
    ///
    /// # Errors
    /// If the object still exists.
    pub(in crate::cli) fn delete(
        &self,
        paths: &Paths,
        kind: &'static Kind,
        key: &Key,
        tell: &dyn Fn(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut selected = Selected::default();
        if kind.kind == "Pod" {
            let namespace = key.namespace.as_deref().unwrap_or_default();
            let record = PodRecords::new(paths.clone()).find(namespace, &key.name)?;
            selected.pods.extend(record);
        } else if let Some(found) = Objects::open(paths)?.find(kind, key)? {
            selected.deletions = Deletions::of(kind, key.clone(), found.uid());
        }
        if selected.pods.is_empty() && selected.deletions.is_empty() {
            return Ok(());
        }
        let tell = |Deleted { kind, namespace, name }: Deleted<'_>| {
            let place = namespace.map(|namespace| format!(" from {namespace} namespace"));
            tell(&format!("{kind} {name:?} deleted{}\n", place.unwrap_or_default()))
        };
        let errors = selected.delete(paths, self.cascade, &self.options(), &tell)?;
        errors.into_iter().next().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use microkube_manifest::kinds;

    use super::*;
    use crate::objects::test_store::{TestStore, config_map};

    fn args(words: &[&str]) -> ReplacedArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: ReplacedArgs,
        }
        <Cli as clap::Parser>::try_parse_from(["replace"].iter().chain(words))
            .unwrap()
            .args
    }

    #[test]
    fn a_grace_period_and_a_timeout_need_force() {
        assert!(
            args(&["--wait", "--cascade=orphan", "--grace-period=-1"])
                .check_without_force()
                .is_ok()
        );
        for (words, message) in [
            ("--grace-period=0", "--grace-period must have --force specified"),
            ("--timeout=1s", "--timeout must have --force specified"),
        ] {
            let error = args(&[words]).check_without_force().unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let options = args(&["--grace-period=5", "--timeout=2s"]).options();
        assert_eq!(options.grace, Some(Duration::from_secs(5)));
        assert_eq!(options.timeout, Some(Duration::from_secs(2)));
        let options = args(&[]).options();
        assert_eq!((options.grace, options.timeout, options.waits), (None, None, true));
    }

    #[test]
    fn an_object_is_deleted_if_it_exists() {
        let store = TestStore::new();
        let kind = kinds::named("cm").unwrap();
        store.add(kind, config_map("default", "a"));
        let told = RefCell::new(String::new());
        let tell = |text: &str| {
            told.borrow_mut().push_str(text);
            Ok(())
        };
        let key = Key::namespaced("default", "a");
        for _ in 0..2 {
            args(&[]).delete(&store.paths, kind, &key, &tell).unwrap();
        }
        assert_eq!(told.take(), "configmap \"a\" deleted from default namespace\n");
        assert!(Objects::open(&store.paths).unwrap().find(kind, &key).unwrap().is_none());
    }
}
