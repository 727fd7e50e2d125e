//! Where Pods run: on this host if its KVM can run guests, otherwise in the emulated host.

use std::io::{Seek, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use microkube_vmm::probe::{self, ProbeError};

use super::failure::Failure;
use super::readable::check_readable;
use crate::emulated_host;
use crate::pod;
use crate::state::{Paths, PodRecords, RecordsError};

/// Where a verb's Pods are.
#[derive(Debug)]
pub(super) enum Place {
    /// On this host, with their records in these directories.
    Here(Paths),
    /// In the emulated host, where the verb was run with this exit code.
    Elsewhere(ExitCode),
}

/// What a verb intends to do with Pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Show the current state. If Pods run in the emulated host and it is not running, there are none.
    Look,
    /// Follow changes: starts the emulated host.
    Follow,
    /// Read or change objects other than Pods. They persist while the emulated host is off, so this starts it.
    Objects,
    /// Change the current state. First releases what dead owners left behind.
    Change,
    /// Like `Change`, and create Pods. First checks the settings that only supervisors use.
    Start,
}

/// Finds where the Pods are. If that is the emulated host, runs the command line there. `consumed_stdin` is the content
/// that the verb has already read from its standard input.
pub(super) fn go_to_pods(purpose: Purpose, consumed_stdin: Option<&[u8]>) -> Result<Place, Failure> {
    let paths = Paths::from_env();
    if matches!(purpose, Purpose::Look | Purpose::Change)
        && why_unusable()?.is_some()
        && matches!(emulated_host::status(), Ok(emulated_host::Status::Stopped))
    {
        return Ok(Place::Here(paths));
    }
    if let Some(exit_code) = delegate_unless_kvm_works(consumed_stdin)? {
        return Ok(Place::Elsewhere(exit_code));
    }
    if purpose == Purpose::Start {
        pod::boot_timeout()?;
        pod::security_policy::SecurityPolicy::of_environment()?;
    }
    check_readable(&paths)?;
    if matches!(purpose, Purpose::Change | Purpose::Start) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(pod::sweep(&paths))?;
    }
    Ok(Place::Here(paths))
}

/// Runs this command line in the emulated host if this machine's KVM cannot run guests, and returns its exit code;
/// `None` if KVM works. `consumed_stdin` is the content that the verb has already read from its standard input.
pub(super) fn delegate_unless_kvm_works(consumed_stdin: Option<&[u8]>) -> Result<Option<ExitCode>, Failure> {
    let Some(error) = why_unusable()? else { return Ok(None) };
    if let Some(text) = consumed_stdin {
        replace_stdin(text).context("cannot pass standard input to the emulated host")?;
    }
    Ok(Some(emulated_host::run_inside(&format!(
        "this machine's KVM cannot run guests ({error:#})"
    ))))
}

/// Pods of this host should run, but its KVM does not work.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot recover {} of this host ({why}): run `microkube recover` when KVM works, or delete {} if KVM will never work",
    count(names), pods.display()
)]
struct PodsWithoutKvm {
    /// `namespace/name` of each Pod.
    names: Vec<String>,
    why: String,
    pods: PathBuf,
}

/// The first Pods, and how many more there are.
fn count(names: &[String]) -> String {
    match names {
        [name] => format!("Pod {name}"),
        [first, others @ ..] => format!("Pod {first} and {} more", others.len()),
        [] => String::new(),
    }
}

/// Fails if Pods of this host should run, but its KVM does not work. While the host boots, KVM may not work yet. The
/// emulated host cannot run these Pods, because it has separate records and images.
pub(super) fn check_kvm_for_pods() -> Result<(), Failure> {
    match why_unusable()? {
        Some(why) => check_no_pods(&Paths::from_env(), &why).map_err(Failure::from),
        None => Ok(()),
    }
}

fn check_no_pods(paths: &Paths, why: &anyhow::Error) -> anyhow::Result<()> {
    let names = names_of_unfinished(paths)?;
    if names.is_empty() {
        return Ok(());
    }
    Err(PodsWithoutKvm {
        names,
        why: format!("{why:#}"),
        pods: paths.pods(),
    }
    .into())
}

/// The Pods that have not ended and do not end with their command.
fn names_of_unfinished(paths: &Paths) -> Result<Vec<String>, RecordsError> {
    let (records, _) = PodRecords::new(paths.clone()).list_all()?;
    let unfinished = records.iter().filter(|record| record.detached && !record.released);
    Ok(unfinished
        .map(|record| format!("{}/{}", record.namespace, record.name))
        .collect())
}

/// Whether Pods need the emulated host, and it was never started. Then there are no Pods.
pub(super) fn never_had_pods() -> Result<bool, Failure> {
    Ok(why_unusable()?.is_some() && !emulated_host::was_ever_started())
}

/// Why this machine's KVM cannot run guests; `None` if it can.
fn why_unusable() -> Result<Option<anyhow::Error>, Failure> {
    if emulated_host::is_inside() || is_kvm_known_usable() {
        return Ok(None);
    }
    match probe::check_kvm(std::path::Path::new("/dev/kvm")) {
        Ok(()) => {
            remember_usable_kvm();
            Ok(None)
        }
        Err(error) if needs_emulated_host(&error) => Ok(Some(error.into())),
        Err(error) => Err(error.into()),
    }
}

/// Whether Pods run in the emulated host because of this error. A user can fix missing permissions, so then they do not
/// run at all.
pub(super) fn needs_emulated_host(error: &ProbeError) -> bool {
    !matches!(error, ProbeError::Permission { .. })
}

/// Makes standard input a file with this content, so that it can be read again from the start.
fn replace_stdin(text: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text)?;
    file.rewind()?;
    nix::unistd::dup2_stdin(file)?;
    Ok(())
}

/// Marks a working KVM. Testing it takes a few milliseconds, and the result holds until the next boot, which empties
/// `/run`.
fn marker() -> PathBuf {
    Paths::from_env().run_dir().join("kvm-works")
}

fn is_kvm_known_usable() -> bool {
    marker().exists() && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn remember_usable_kvm() {
    let marker = marker();
    // Without the marker KVM is tested again next time, which is harmless.
    if let Some(dir) = marker.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    let _ = std::fs::write(marker, "");
}

/// Whether Pods run on this host itself.
pub(super) fn pods_are_here() -> bool {
    matches!(why_unusable(), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::test_pods::{TestPods, manifest, record_of};

    fn refusal(pods: &TestPods) -> Option<String> {
        let why = anyhow::anyhow!("/dev/kvm does not exist");
        check_no_pods(&pods.paths, &why).err().map(|error| error.to_string())
    }

    #[test]
    fn recovery_without_kvm_fails_for_pods_that_should_run() {
        let pods = TestPods::new();
        assert_eq!(refusal(&pods), None);
        pods.add("web", &[]);
        let rest = |what: &str| {
            let dir = pods.paths.pods();
            Some(format!(
                "cannot recover {what} of this host (/dev/kvm does not exist): run `microkube recover` when KVM works, or delete {} if KVM will never work",
                dir.display()
            ))
        };
        assert_eq!(refusal(&pods), rest("Pod default/web"));
        pods.add("db", &[]);
        assert!(refusal(&pods).unwrap().contains(" and 1 more of this host "));
    }

    #[test]
    fn recovery_without_kvm_ignores_pods_that_have_ended_or_end_with_their_command() {
        let pods = TestPods::new();
        let uid = pods.add("ended", &[]);
        let ended = pods.records.get(&uid).unwrap().unwrap().into_released();
        pods.records.save(&ended).unwrap();
        let mut attached = record_of(&manifest("attached", "nginx:1", "sleep"));
        attached.detached = false;
        let _lock = pods.records.create(&attached).unwrap();
        assert_eq!(refusal(&pods), None);
    }
}
