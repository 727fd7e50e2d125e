//! A Pod's VMM from its supervisor's side: its streams, its reports, and how it ends. `privileged` starts, finds and
//! kills it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use microkube_vmm::config::VmmEvent;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;

use super::patience::KILL_PATIENCE;
use super::vmm_events::VmmEvents;
use super::vsock_link::VsockLink;
use crate::privileged::{PodPrivileges, StartedVmm, VmmError, VmmRequest};
use crate::state::ProcessIdentity;

fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> VmmError {
    move |source| VmmError::System { action, source }
}

/// A running VMM.
#[derive(Debug)]
pub struct VirtualMachine {
    privileges: PodPrivileges,
    /// The process, for the Pod's record.
    pub identity: Option<ProcessIdentity>,
    /// Becomes readable when the process ends; `None` once it has.
    exit: Option<AsyncFd<OwnedFd>>,
    /// Its event reports; `None` for a VMM taken over from a dead supervisor, whose reports are lost.
    events: Option<VmmEvents<pipe::Receiver>>,
    /// Whether this process started it, and kills it when this is dropped.
    is_own: bool,
}

/// The streams of a new VM.
#[derive(Debug)]
pub struct MachineStreams {
    /// The Pod's vsock.
    pub vsock: VsockLink,
    /// The serial console, and the VMM's own error messages.
    pub console: pipe::Receiver,
}

impl VirtualMachine {
    /// Starts the VMM.
    ///
    /// # Errors
    /// See [`VmmError`]. Errors of the VM itself are reported by [`Self::next_event`].
    pub async fn start(privileges: PodPrivileges, request: VmmRequest) -> Result<(Self, MachineStreams), VmmError> {
        let StartedVmm {
            identity,
            exit,
            events,
            console,
            vsock,
        } = privileges.start_vmm(request).await?;
        // From here on, dropping this value ends the VMM, so every failure does.
        let mut vm = Self {
            privileges,
            identity,
            exit: None,
            events: None,
            is_own: true,
        };
        vm.exit = exit.map(watched).transpose()?;
        let events = pipe::Receiver::from_owned_fd(events).map_err(system("read from a pipe"))?;
        vm.events = Some(VmmEvents::new(events));
        let console = pipe::Receiver::from_owned_fd(console).map_err(system("read from a pipe"))?;
        let vsock = VsockLink::over(vsock).map_err(system("create a socket"))?;
        Ok((vm, MachineStreams { vsock, console }))
    }

    /// Takes over the VMM that an earlier supervisor started; `None` if it has ended.
    ///
    /// # Errors
    /// [`VmmError::System`].
    pub fn adopt(privileges: PodPrivileges, identity: ProcessIdentity) -> Result<Option<Self>, VmmError> {
        let exit = identity
            .exit_event()
            .map_err(|error| system("find the Pod's VMM")(std::io::Error::other(error)))?;
        let Some(exit) = exit else { return Ok(None) };
        Ok(Some(Self {
            privileges,
            identity: Some(identity),
            exit: Some(watched(exit)?),
            events: None,
            is_own: false,
        }))
    }

    /// The VMM's next report; `None` when it has closed its side, as it does when it ends.
    pub async fn next_event(&mut self) -> Option<VmmEvent> {
        match (&mut self.events, &self.exit) {
            (Some(events), _) => events.next().await,
            (None, Some(exit)) => {
                let _ = exit.readable().await;
                None
            }
            (None, None) => None,
        }
    }

    /// Gives the VMM time to end on its own, kills it if it does not, and waits for it.
    pub async fn end(&mut self, patience: Duration) {
        let Some(exit) = &self.exit else { return };
        if tokio::time::timeout(patience, exit.readable()).await.is_err()
            && let Some(identity) = self.identity.clone()
        {
            match self.privileges.kill_vmm(identity, KILL_PATIENCE).await {
                // Wait until all its threads have ended: its address must not be reused before that.
                Ok(_) if self.is_own => drop(exit.readable().await),
                Ok(true) => {}
                killed => tracing::error!("cannot kill the VMM: {killed:?}"),
            }
        }
        self.exit = None;
    }
}

impl Drop for VirtualMachine {
    fn drop(&mut self) {
        if let Some(identity) = self.identity.as_ref().filter(|_| self.is_own) {
            self.privileges.kill_vmm_without_waiting(identity);
        }
    }
}

fn watched(exit: OwnedFd) -> Result<AsyncFd<OwnedFd>, VmmError> {
    // SAFETY: an `OwnedFd` refers to the same open file while it lives, and the `AsyncFd` owns it.
    let exit = unsafe { AsyncFd::register_with_interest(exit, Interest::READABLE) };
    exit.map_err(|error| system("watch the Pod's VMM")(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privileged::Privileges;
    use crate::privileged::fake_vmm::fake_vmm;
    use crate::state::Paths;

    #[tokio::test]
    async fn an_adopted_vmm_ends_on_request_and_a_started_one_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let privileges = Privileges::new(&paths).of_pod("pod").unwrap();
        let adopt = |process: &std::process::Child| {
            let identity = ProcessIdentity::of(i32::try_from(process.id()).unwrap()).unwrap();
            let vm = VirtualMachine::adopt(privileges.clone(), identity.clone()).unwrap();
            (vm.unwrap(), identity)
        };

        let mut process = fake_vmm("pod", dir.path());
        let (vm, identity) = adopt(&process);
        drop(vm);
        assert!(identity.is_alive());
        let (mut vm, _) = adopt(&process);
        vm.end(Duration::ZERO).await;
        assert!(!identity.is_alive());
        assert!(vm.next_event().await.is_none());
        process.wait().unwrap();

        let mut process = fake_vmm("pod", dir.path());
        let (mut vm, _) = adopt(&process);
        vm.is_own = true;
        drop(vm);
        let status = process.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(libc::SIGKILL)
        );
    }
}
