//! A Pod's VMM as its supervisor has it: its streams, what it reports, how its end is waited for and brought about. It is started, found and
//! killed in `privileged`.

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
    /// Becomes readable when it ends; `None` when it has.
    exit: Option<AsyncFd<OwnedFd>>,
    /// What it reports; none of one that was taken over from a supervisor that died: what it reports is lost.
    events: Option<VmmEvents<pipe::Receiver>>,
    /// Whether it was started here, and is killed when this is dropped.
    is_own: bool,
}

/// The two streams of a new machine.
#[derive(Debug)]
pub struct MachineStreams {
    /// The Pod's vsock.
    pub vsock: VsockLink,
    /// The serial console, and what the VMM itself has to complain about.
    pub console: pipe::Receiver,
}

impl VirtualMachine {
    /// Starts the VMM.
    ///
    /// # Errors
    /// See [`VmmError`]. What is wrong with the machine itself is reported by [`Self::next_event`].
    pub async fn start(privileges: PodPrivileges, request: VmmRequest) -> Result<(Self, MachineStreams), VmmError> {
        let StartedVmm {
            identity,
            exit,
            events,
            console,
            vsock,
        } = privileges.start_vmm(request).await?;
        // From here on the VMM ends with this value, whatever fails.
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
        let vsock = VsockLink::over(vsock).map_err(system("make a socket"))?;
        Ok((vm, MachineStreams { vsock, console }))
    }

    /// Takes over the VMM that a supervisor before this one started; `None` when it has ended.
    ///
    /// # Errors
    /// [`VmmError::System`].
    pub fn adopt(privileges: PodPrivileges, identity: ProcessIdentity) -> Result<Option<Self>, VmmError> {
        let exit = identity
            .exit_event()
            .map_err(|error| system("look for the Pod's VMM")(std::io::Error::other(error)))?;
        let Some(exit) = exit else { return Ok(None) };
        Ok(Some(Self {
            privileges,
            identity: Some(identity),
            exit: Some(watched(exit)?),
            events: None,
            is_own: false,
        }))
    }

    /// What the VMM reports next; `None` when it has closed its side, which is when it ends.
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

    /// Gives the VMM some time to end by itself, kills it if it does not, and waits for it.
    pub async fn end(&mut self, patience: Duration) {
        let Some(exit) = &self.exit else { return };
        if tokio::time::timeout(patience, exit.readable()).await.is_err()
            && let Some(identity) = self.identity.clone()
        {
            match self.privileges.kill_vmm(identity, KILL_PATIENCE).await {
                // Its address must not be given away before. All its threads have to end, whatever it looks like.
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
            self.privileges.kill_vmm_soon(identity);
        }
    }
}

fn watched(exit: OwnedFd) -> Result<AsyncFd<OwnedFd>, VmmError> {
    // SAFETY: an `OwnedFd` gives the same open descriptor as long as it lives, and it lives in the `AsyncFd`.
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
    async fn a_vmm_that_was_taken_over_is_ended_by_request_and_one_that_was_started_with_its_owner() {
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
