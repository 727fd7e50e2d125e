//! Boots the Pod's VM, from the start of its VMM until the agent answers.

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
use super::boot_timeout::{boot_timeout, default_boot_timeout};
use super::guest_streams::GuestStreams;
use super::timings::Stage;
use super::virtual_machine::{MachineStreams, VirtualMachine};
use super::vsock_link::VsockLink;
use crate::privileged::PodPrivileges;

/// Maximum number of streams that the guest may have open at a time. A container has two or three; a guest that opens
/// more is hostile.
const MAX_STREAMS: usize = 512;

/// How many of these may not have sent a header yet. One more closes the oldest. An agent sends the header immediately.
const MAX_UNNAMED_STREAMS: usize = 32;

/// How long a stream is protected from being closed before it has sent its header.
const HEADER_PATIENCE: Duration = Duration::from_secs(2);

/// How long a closed stream's header is still awaited.
const LATE_HEADER_PATIENCE: Duration = Duration::from_millis(100);

/// How many lines of the guest's log an error message quotes.
const LOG_LINES_IN_ERROR: usize = 12;

/// A VM whose agent answers.
#[derive(Debug, Clone)]
pub struct ReadySandbox {
    pub agent: AgentClientHandle,
    /// The control socket of its VMM.
    pub vsock: Arc<VsockLink>,
}

/// Boots the VM and waits until the agent has connected.
///
/// # Errors
/// If the guest or its VMM ends, or the agent does not connect in time.
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
    let vsock = Arc::new(streams.vsock);
    tokio::spawn(serve_vsock(
        Arc::clone(&vsock),
        Arc::clone(guest_streams),
        control_sender,
    ));

    // The command that created the Pod has checked the setting. Another command may have started this supervisor since.
    let timeout = boot_timeout().unwrap_or_else(|error| {
        tracing::warn!("{error}; using the default");
        default_boot_timeout()
    });
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let mut started = false;
    let end = loop {
        tokio::select! {
            Some(connection) = control.recv() => {
                let agent = AgentClientHandle::new(connection);
                return Ok(ReadySandbox { agent, vsock });
            }
            event = next_event(vm, guest_streams) => match event {
                Some(VmmEvent::Started { .. }) if !started => {
                    started = true;
                    stages.push(Stage::since("vmm", vmm_start));
                }
                event => break vmm_end(event.as_ref()),
            },
            () = &mut deadline => break format!(
                "the guest did not boot within {} s (MICROKUBE_BOOT_TIMEOUT_SECONDS)", timeout.as_secs()
            ),
        }
    };
    // The last output of the VMM and the guest kernel gives the reason. It is complete when the VMM has ended.
    vm.end(Duration::ZERO).await;
    let _ = console.await;
    bail!(end)
}

/// Connects to a VM that another supervisor started.
///
/// # Errors
/// If its VMM or its agent does not answer.
pub async fn adopt(privileges: &PodPrivileges, guest_streams: &Arc<GuestStreams>) -> anyhow::Result<ReadySandbox> {
    let vsock = VsockLink::over(privileges.connect_vmm().await?).context("cannot connect to the Pod's VMM")?;
    let connection = vsock.dial(CONTROL_PORT).await.context("cannot connect to the agent")?;
    // The agent connects only when it starts, so no connection to this port is expected.
    let (control, _) = mpsc::channel(1);
    let vsock = Arc::new(vsock);
    tokio::spawn(serve_vsock(Arc::clone(&vsock), Arc::clone(guest_streams), control));
    let agent = AgentClientHandle::new(connection);
    Ok(ReadySandbox { agent, vsock })
}

/// Describes in a sentence how a VM ended unexpectedly.
pub fn vmm_end(event: Option<&VmmEvent>) -> String {
    match event {
        Some(VmmEvent::GuestStopped { triple_fault: false }) => "the Pod's VM turned itself off".to_owned(),
        Some(VmmEvent::GuestStopped { triple_fault: true }) => "the Pod's VM crashed (triple fault)".to_owned(),
        Some(VmmEvent::Failed { message }) => format!("the Pod's VM failed: {message}"),
        Some(VmmEvent::Started { .. }) => "the VMM reported the start of the Pod's VM twice".to_owned(),
        Some(VmmEvent::DiskFailed { message }) => format!("the Pod's disk failed: {message}"),
        None => "the Pod's VMM died".to_owned(),
    }
}

/// Returns the next VMM event that ends the VM or its boot. A disk failure is only recorded: if the VM ends
/// because of it, it explains why.
pub async fn next_event(vm: &mut VirtualMachine, guest_streams: &GuestStreams) -> Option<VmmEvent> {
    loop {
        match vm.next_event().await {
            Some(VmmEvent::DiskFailed { message }) => guest_streams.guest_log(|log| log.note_disk_failure(message)),
            event => return event,
        }
    }
}

/// Adds the end of the guest's log to a description of its end.
pub fn describe_loss(guest_streams: &GuestStreams, what: &str) -> String {
    guest_streams.guest_log(|log| {
        let what = match log.panic_line() {
            Some(line) => format!("{what} after a kernel panic ({line})"),
            None => what.to_owned(),
        };
        let what = match log.disk_failure() {
            Some(failure) => format!("{what}; cannot write its scratch disk ({failure})"),
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

/// Routes the guest's connections until the VMM has ended.
async fn serve_vsock(vsock: Arc<VsockLink>, guest_streams: Arc<GuestStreams>, control: mpsc::Sender<UnixStream>) {
    let streams = Arc::new(Semaphore::new(MAX_STREAMS));
    // The semaphore's permits bound this queue.
    let (accepted, queue) = mpsc::unbounded_channel();
    tokio::spawn(serve_streams(queue, Arc::clone(&guest_streams)));
    loop {
        match vsock.accept().await {
            // Only the first connection is from the agent: containers start later.
            Ok(Some((CONTROL_PORT, stream))) => drop(control.try_send(stream)),
            Ok(Some((STREAM_PORT, stream))) => {
                let Ok(permit) = Arc::clone(&streams).try_acquire_owned() else {
                    guest_streams.complain(format_args!(
                        "the guest opened more than {MAX_STREAMS} streams at once: refused"
                    ));
                    continue;
                };
                let _ = accepted.send((stream, permit));
            }
            Ok(Some((port, _))) => {
                guest_streams.complain(format_args!(
                    "the guest connected to vsock port {port}, where nothing listens"
                ));
            }
            Ok(None) => return,
            Err(error) => return tracing::warn!("the Pod's vsock connection failed: {error}"),
        }
    }
}

/// Serves accepted streams, each as soon as there is a place for it. Accepting does not wait for places, because the
/// VMM refuses connections that are not accepted.
async fn serve_streams(
    mut accepted: mpsc::UnboundedReceiver<(UnixStream, OwnedSemaphorePermit)>,
    guest_streams: Arc<GuestStreams>,
) {
    let mut unnamed = UnnamedStreams::default();
    while let Some((mut stream, permit)) = accepted.recv().await {
        // The semaphore is never closed; without it no stream could be served.
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
                    "the guest opened more than {MAX_UNNAMED_STREAMS} streams without a header: closed the oldest"
                )),
            }
            drop(permit);
        });
    }
}

/// The streams whose header has not arrived yet. If all places are taken, the oldest stream is closed in favour of the
/// next, so silent streams cannot block others for long. Each stream is protected for a minimum time: after a takeover,
/// a guest opens all its streams at once.
#[derive(Debug)]
struct UnnamedStreams {
    free: Arc<Semaphore>,
    /// The oldest first, with the time until which it is protected.
    places: VecDeque<(tokio::time::Instant, oneshot::Sender<()>)>,
}

/// The place of one stream.
#[derive(Debug)]
struct Place {
    /// Resolves when another stream takes the place.
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
    /// Waits for a place for a new stream.
    ///
    /// # Errors
    /// If the semaphore was closed.
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
            // The oldest stream's time is up. Its permit, or another one, is free soon.
            None => {
                if self.free.available_permits() == 0 {
                    self.places.pop_front();
                }
                free().await?
            }
        };
        let (place, lost) = oneshot::channel();
        self.places
            .push_back((tokio::time::Instant::now() + HEADER_PATIENCE, place));
        Ok(Place { lost, _permit: permit })
    }
}

impl Place {
    /// Reads the stream's header unless the place is taken first. Data that has arrived by then still counts.
    async fn hold<T>(self, header: impl Future<Output = T>) -> Option<T> {
        let mut header = std::pin::pin!(header);
        tokio::select! {
            biased;
            header = &mut header => return Some(header),
            _ = self.lost => {}
        }
        // The socket may not have been polled yet.
        tokio::time::timeout(LATE_HEADER_PATIENCE, header).await.ok()
    }
}

/// Adds the stages between the guest's first instruction and the ready sandbox. The guest's clock shows how long its
/// kernel took until the agent started; the rest is the agent's time.
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
    // The guest may report any value; the host's own measurement bounds it.
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

    /// Opens a stream from the guest to the host.
    async fn open(vmm: &OwnedFd) -> UnixStream {
        let (guest, host) = UnixStream::pair().unwrap();
        let message = vsock_control::encode(vsock_control::INCOMING, STREAM_PORT);
        let passed = [host.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&passed)];
        let slices = [IoSlice::new(&message)];
        sendmsg::<()>(vmm.as_raw_fd(), &slices, &control, MsgFlags::empty(), None).unwrap();
        drop(host);
        // Let every task run: streams are accepted, and displaced ones are closed.
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
    async fn silent_streams_do_not_block_other_streams() {
        let dir = tempfile::tempdir().unwrap();
        let guest_streams = GuestStreams::new(None, GuestLog::begin(dir.path().join("guest.log")), false);
        guest_streams.expect_machine();
        let (vmm, link) = VsockLink::pair().unwrap();
        let (control, _) = mpsc::channel(1);
        tokio::spawn(serve_vsock(Arc::new(link), Arc::clone(&guest_streams), control));
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
        // The stream has lost its place in the list, but stays open.
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
            "the latest streams stay open"
        );
    }

    #[tokio::test]
    async fn all_streams_opened_at_once_are_accepted() {
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
        tokio::spawn(serve_vsock(Arc::new(link), Arc::clone(&guest_streams), control));
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
    async fn a_stream_is_displaced_only_after_its_header_timeout_and_without_data_loss() {
        let mut unnamed = UnnamedStreams::default();
        let begun = tokio::time::Instant::now();
        let mut places = Vec::new();
        for _ in 0..MAX_UNNAMED_STREAMS {
            places.push(unnamed.admit().await.unwrap());
        }
        let silent = places.remove(0);
        let silent = tokio::spawn(silent.hold(std::future::pending::<()>()));
        let late = unnamed.admit().await.unwrap();
        assert!(begun.elapsed() >= HEADER_PATIENCE);
        assert_eq!(silent.await.unwrap(), None);
        let is_lost = |place: &mut Place| place.lost.try_recv() != Err(oneshot::error::TryRecvError::Empty);
        assert!(!places.iter_mut().any(is_lost), "a new stream displaces only one");
        // The next stream to be displaced has sent its header, which is read only now.
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
