//! The Pod's machine from the start of its VMM to the agent's first word.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use microkube_protocol::messages::CreateSandboxResponse;
use microkube_protocol::{CONTROL_PORT, STREAM_PORT};
use microkube_vmm::config::VmmEvent;
use tokio::net::UnixStream;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub use super::agent::{AgentClientHandle, rpc_message};
use super::guest_streams::GuestStreams;
use super::timings::Stage;
use super::virtual_machine::{MachineStreams, VirtualMachine};
use super::vsock_link::VsockLink;
use crate::privileged::PodPrivileges;

/// Streams the guest may have open at once. A container has two or three; more is an attack.
const MAX_STREAMS: usize = 512;

/// How many of these may not have said yet what they are: the oldest is closed for one more. An agent says it at once.
const MAX_UNNAMED_STREAMS: usize = 32;

/// Least time that a stream has to say what it is.
const TIME_TO_SPEAK: Duration = Duration::from_secs(2);

/// How long a stream that has lost its place is still listened to.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// Lines of the guest's log in an error message.
const LOG_LINES_IN_ERROR: usize = 12;

/// A machine whose agent answers.
#[derive(Debug, Clone)]
pub struct ReadySandbox {
    /// The agent.
    pub agent: AgentClientHandle,
}

/// How long a guest may take from the first instruction to the agent's first word. A hundred times what it needs: a guest that is not up by then
/// hangs.
fn boot_timeout() -> Duration {
    let configured = std::env::var("MICROKUBE_BOOT_TIMEOUT_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(configured.unwrap_or(if crate::emulated_host::is_inside() { 90 } else { 10 }))
}

/// Waits until the agent has connected.
///
/// # Errors
/// When the guest or its VMM ends instead, or nothing happens for too long.
pub async fn boot(
    vm: &mut VirtualMachine,
    streams: MachineStreams,
    guest_streams: &Arc<GuestStreams>,
    vmm_start: Instant,
    stages: &mut Vec<Stage>,
) -> anyhow::Result<ReadySandbox> {
    let console = Arc::clone(guest_streams);
    let console = tokio::spawn(async move { console.serve_console(streams.console).await });
    let (control_sender, mut control) = mpsc::channel(1);
    tokio::spawn(serve_vsock(streams.vsock, Arc::clone(guest_streams), control_sender));

    let timeout = boot_timeout();
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let mut started = false;
    let end = loop {
        tokio::select! {
            Some(connection) = control.recv() => {
                let agent = AgentClientHandle::new(connection);
                return Ok(ReadySandbox { agent });
            }
            event = next_event(vm, guest_streams) => match event {
                Some(VmmEvent::Started { .. }) if !started => {
                    started = true;
                    stages.push(Stage::since("vmm", vmm_start));
                }
                event => break vmm_end(event.as_ref()),
            },
            () = &mut deadline => break format!(
                "the guest has not come up within {} s (MICROKUBE_BOOT_TIMEOUT_SECONDS)", timeout.as_secs()
            ),
        }
    };
    // The last output of the VMM and of the guest's kernel says why; it is complete when the VMM is gone.
    vm.end(Duration::ZERO).await;
    let _ = console.await;
    bail!(end)
}

/// Connects to a machine that another supervisor started.
///
/// # Errors
/// When its VMM or its agent does not answer.
pub async fn adopt(privileges: &PodPrivileges, guest_streams: &Arc<GuestStreams>) -> anyhow::Result<ReadySandbox> {
    let vsock = VsockLink::over(privileges.connect_vmm().await?).context("cannot connect to the Pod's VMM")?;
    let connection = vsock.dial(CONTROL_PORT).await.context("cannot connect to the agent")?;
    // The agent connects only at its own start; later connections to this port are not the agent's.
    let (control, _) = mpsc::channel(1);
    tokio::spawn(serve_vsock(vsock, Arc::clone(guest_streams), control));
    let agent = AgentClientHandle::new(connection);
    Ok(ReadySandbox { agent })
}

/// Says in a sentence how a machine ended unexpectedly.
pub fn vmm_end(event: Option<&VmmEvent>) -> String {
    match event {
        Some(VmmEvent::GuestStopped { triple_fault: false }) => {
            "the Pod's virtual machine turned itself off".to_owned()
        }
        Some(VmmEvent::GuestStopped { triple_fault: true }) => {
            "the Pod's virtual machine crashed (triple fault)".to_owned()
        }
        Some(VmmEvent::Failed { message }) => format!("the Pod's virtual machine failed: {message}"),
        Some(VmmEvent::Started { .. }) => "the Pod's virtual machine was started twice".to_owned(),
        Some(VmmEvent::DiskFailed { message }) => format!("the Pod's disk failed: {message}"),
        None => "the Pod's virtual machine monitor died".to_owned(),
    }
}

/// What the VMM reports next that ends the machine or its start. That a disk failed is noted: if that ends the machine, it says why.
pub async fn next_event(vm: &mut VirtualMachine, guest_streams: &GuestStreams) -> Option<VmmEvent> {
    loop {
        match vm.next_event().await {
            Some(VmmEvent::DiskFailed { message }) => guest_streams.guest_log(|log| log.note_disk_failure(message)),
            event => return event,
        }
    }
}

/// Adds the end of the guest's log to what is said about its end.
pub fn describe_loss(guest_streams: &GuestStreams, what: &str) -> String {
    guest_streams.guest_log(|log| {
        let what = match log.panic_line() {
            Some(line) => format!("{what} after a kernel panic ({line})"),
            None => what.to_owned(),
        };
        let what = match log.disk_failure() {
            Some(failure) => format!("{what}; its scratch disk could not be written ({failure})"),
            None => what,
        };
        let lines = log.last_lines(LOG_LINES_IN_ERROR);
        if lines.is_empty() {
            what
        } else {
            format!("{what}; the end of its log:\n  {}\n", lines.join("\n  "))
        }
    })
}

/// Distributes the guest's connections until the VMM is gone.
async fn serve_vsock(vsock: VsockLink, guest_streams: Arc<GuestStreams>, control: mpsc::Sender<UnixStream>) {
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
    // Bounded by the permits.
    let (accepted, queue) = mpsc::unbounded_channel();
    tokio::spawn(serve_streams(queue, Arc::clone(&guest_streams)));
    loop {
        match vsock.accept().await {
            // Only the first one is the agent: containers start after it.
            Ok(Some((CONTROL_PORT, stream))) => drop(control.try_send(stream)),
            Ok(Some((STREAM_PORT, stream))) => {
                let Ok(permit) = Arc::clone(&streams).try_acquire_owned() else {
                    guest_streams.complain(format_args!(
                        "the guest opens more than {MAX_STREAMS} streams at once: refused"
                    ));
                    continue;
                };
                let _ = accepted.send((stream, permit));
            }
            Ok(Some((port, _))) => {
                guest_streams.complain(format_args!("the guest connects to port {port}, where nobody listens"));
            }
            Ok(None) => return,
            Err(error) => return tracing::warn!("the Pod's vsock broke off: {error}"),
        }
    }
}

/// Serves accepted streams, each as soon as there is a place for it: the VMM refuses the guest's connections while nobody takes them.
async fn serve_streams(
    mut accepted: mpsc::UnboundedReceiver<(UnixStream, OwnedSemaphorePermit)>,
    guest_streams: Arc<GuestStreams>,
) {
    let mut unnamed = UnnamedStreams::default();
    while let Some((mut stream, permit)) = accepted.recv().await {
        // Nothing closes the semaphore; without places no stream can be served.
        let Ok(place) = unnamed.admit().await else {
            return;
        };
        let guest_streams = Arc::clone(&guest_streams);
        tokio::spawn(async move {
            let header = place.hold(guest_streams.header(&mut stream)).await;
            match header {
                Some(Some(header)) => guest_streams.serve(header, stream).await,
                Some(None) => {}
                None => guest_streams.complain(format_args!(
                    "the guest opens more than {MAX_UNNAMED_STREAMS} streams that say nothing: closed the oldest"
                )),
            }
            drop(permit);
        });
    }
}

/// The streams that have not said yet what they are. When all places are taken, the oldest stream is closed for the next one, so that silent
/// streams cannot block others for long. It is given time to speak before: a guest whose supervisor was replaced opens all its streams at once.
#[derive(Debug)]
struct UnnamedStreams {
    free: Arc<Semaphore>,
    /// The oldest first, with the time until which it is left alone.
    places: VecDeque<(tokio::time::Instant, oneshot::Sender<()>)>,
}

/// The place of one of them.
#[derive(Debug)]
struct Place {
    /// Ends when it is lost to another.
    lost: oneshot::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

impl Default for UnnamedStreams {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MAX_UNNAMED_STREAMS)),
            places: VecDeque::new(),
        }
    }
}

impl UnnamedStreams {
    /// A place for a new one, as soon as there is one.
    ///
    /// # Errors
    /// If the places were closed.
    async fn admit(&mut self) -> Result<Place, AcquireError> {
        self.places.retain(|(_, place)| !place.is_closed());
        let free = || Arc::clone(&self.free).acquire_owned();
        let until = self.places.front().map(|(until, _)| *until);
        let permit = match until {
            Some(until) => tokio::time::timeout_at(until, free()).await.ok(),
            None => None,
        };
        let permit = match permit {
            Some(permit) => permit?,
            // The oldest had its time. Its permit, or another stream's, is free soon.
            None => {
                if self.free.available_permits() == 0 {
                    self.places.pop_front();
                }
                free().await?
            }
        };
        let (place, lost) = oneshot::channel();
        self.places
            .push_back((tokio::time::Instant::now() + TIME_TO_SPEAK, place));
        Ok(Place { lost, _permit: permit })
    }
}

impl Place {
    /// What the stream says it is, unless the place is lost before. What has arrived by then still counts.
    async fn hold<T>(self, header: impl Future<Output = T>) -> Option<T> {
        let mut header = std::pin::pin!(header);
        tokio::select! {
            biased;
            header = &mut header => return Some(header),
            _ = self.lost => {}
        }
        // Nobody may have looked at the socket yet.
        tokio::time::timeout(LAST_LOOK, header).await.ok()
    }
}

/// Adds the stages between the guest's first instruction and the sandbox. The guest's clock says how long its kernel took
/// before the agent's first instruction; the rest of the time until the sandbox was there is the agent's.
pub fn boot_stages(
    stages: &mut Vec<Stage>,
    vmm_start: Instant,
    agent_connected: Instant,
    created: &CreateSandboxResponse,
) {
    let vmm_ms = stages
        .iter()
        .find(|stage| stage.name == "vmm")
        .map_or(0.0, |stage| stage.milliseconds);
    let boot = agent_connected
        .duration_since(vmm_start)
        .saturating_sub(Duration::from_secs_f64((vmm_ms / 1000.0).max(0.0)));
    let agent_ns = created
        .agent_ready_boottime_ns
        .saturating_sub(created.agent_start_boottime_ns);
    // The guest may claim anything; the host's own measurement bounds it.
    let agent = Duration::from_nanos(agent_ns).min(boot);
    stages.push(Stage::new("kernel", boot - agent));
    stages.push(Stage::new("agent", agent + agent_connected.elapsed()));
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::{AsRawFd, OwnedFd};

    use microkube_vmm::vsock_control;
    use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::pod::guest_log::GuestLog;

    /// Has the guest open a stream to the host.
    async fn open(vmm: &OwnedFd) -> UnixStream {
        let (guest, host) = UnixStream::pair().unwrap();
        let message = vsock_control::encode(vsock_control::INCOMING, STREAM_PORT);
        let passed = [host.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&passed)];
        let slices = [IoSlice::new(&message)];
        sendmsg::<()>(vmm.as_raw_fd(), &slices, &control, MsgFlags::empty(), None).unwrap();
        drop(host);
        // Everything has its turn: streams are accepted, and those that were closed for others say so.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        guest
    }

    fn is_closed(stream: &UnixStream) -> bool {
        let mut byte = [0];
        recv(stream.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT) == Ok(0)
    }

    #[tokio::test]
    async fn streams_that_say_nothing_keep_none_from_being_heard() {
        let dir = tempfile::tempdir().unwrap();
        let guest_streams = GuestStreams::new(None, GuestLog::begin(dir.path().join("guest.log")), false);
        guest_streams.expect_machine();
        let (vmm, link) = VsockLink::pair().unwrap();
        let (control, _) = mpsc::channel(1);
        tokio::spawn(serve_vsock(link, Arc::clone(&guest_streams), control));
        let mut silent = Vec::new();
        for _ in 0..2 * MAX_UNNAMED_STREAMS {
            silent.push(open(&vmm).await);
        }
        let expected = guest_streams.expect_process("p-1", microkube_protocol::Stdio::Stdout);
        let mut good = open(&vmm).await;
        let header = microkube_protocol::encode_stream_header(&microkube_protocol::DataStream::Process {
            id: "p-1".to_owned(),
            stdio: microkube_protocol::Stdio::Stdout,
        })
        .unwrap();
        good.write_all(&header).await.unwrap();
        let served = tokio::time::timeout(Duration::from_secs(30), expected).await;
        let mut served = served.unwrap().unwrap();
        // It has given its place up, and keeps what it has.
        for _ in 0..MAX_UNNAMED_STREAMS {
            silent.push(open(&vmm).await);
        }
        good.write_all(b"x").await.unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'x');
        let closed = || silent.iter().filter(|stream| is_closed(stream)).count();
        let begun = Instant::now();
        while closed() < silent.len() - MAX_UNNAMED_STREAMS {
            assert!(begun.elapsed() < Duration::from_secs(30), "{} are closed", closed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(
            !silent.iter().rev().take(MAX_UNNAMED_STREAMS).any(is_closed),
            "the latest stay"
        );
    }

    #[tokio::test]
    async fn all_streams_of_a_guest_that_opens_them_at_once_are_heard() {
        let dir = tempfile::tempdir().unwrap();
        let guest_streams = GuestStreams::new(None, GuestLog::begin(dir.path().join("guest.log")), false);
        guest_streams.expect_machine();
        let (vmm, link) = VsockLink::pair().unwrap();
        let (control, _) = mpsc::channel(1);
        let stdio = microkube_protocol::Stdio::Stdout;
        let ids: Vec<String> = (0..3 * MAX_UNNAMED_STREAMS)
            .map(|number| format!("p-{number}"))
            .collect();
        let expected: Vec<_> = ids.iter().map(|id| guest_streams.expect_process(id, stdio)).collect();
        let mut streams = Vec::new();
        for _ in &ids {
            streams.push(open(&vmm).await);
        }
        tokio::spawn(serve_vsock(link, Arc::clone(&guest_streams), control));
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        for (id, stream) in ids.iter().zip(&mut streams) {
            let process = microkube_protocol::DataStream::Process { id: id.clone(), stdio };
            let header = microkube_protocol::encode_stream_header(&process).unwrap();
            stream.write_all(&header).await.unwrap();
        }
        for served in expected {
            let served = tokio::time::timeout(Duration::from_secs(30), served).await;
            served.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_loses_its_place_when_it_had_time_to_speak_and_what_has_arrived_is_heard() {
        let mut unnamed = UnnamedStreams::default();
        let begun = tokio::time::Instant::now();
        let mut places = Vec::new();
        for _ in 0..MAX_UNNAMED_STREAMS {
            places.push(unnamed.admit().await.unwrap());
        }
        let silent = places.remove(0);
        let silent = tokio::spawn(silent.hold(std::future::pending::<()>()));
        let late = unnamed.admit().await.unwrap();
        assert!(begun.elapsed() >= TIME_TO_SPEAK);
        assert_eq!(silent.await.unwrap(), None);
        let is_lost = |place: &mut Place| place.lost.try_recv() != Err(oneshot::error::TryRecvError::Empty);
        assert!(!places.iter_mut().any(is_lost), "one makes room for one");
        // The next one to lose its place has spoken, and is only looked at now.
        let spoken = places.remove(0);
        let next = tokio::spawn(async move {
            let place = unnamed.admit().await.unwrap();
            (unnamed, place)
        });
        let header = async {
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(spoken.hold(header).await, Some(7));
        drop((next.await.unwrap(), late));
    }
}
