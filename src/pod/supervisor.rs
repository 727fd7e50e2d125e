//! The process that drives one Pod: prepares what it needs, starts its machine, carries out what the lifecycle decides,
//! and releases everything at the end.
//!
//! The decisions are in `lifecycle`; here is the I/O around them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use microkube_protocol::messages::{SignalContainerRequest, StartContainerRequest, WaitContainerRequest};

use microkube_vmm::config::VmmEvent;
use tokio::sync::mpsc;
use ttrpc::context::{self, Context};

use super::attach::{Frame, Notice, Request, read_frame, write_frame};
use super::guest_log::GuestLog;
use super::output::Output;
use super::prepare::{self, Prepared};
use super::sandbox::{self, AgentClientHandle, Sandbox};
use super::simple_lifecycle::{Action, ContainerState, Event, Exit, Lifecycle};
use super::timings::Stage;
use super::virtual_machine::VirtualMachine;
use crate::network;
use crate::state::{LockedFile, Paths, PodRecord, PodRecords, ProcessIdentity};

/// Lines of the guest's log in an error message.
const LOG_LINES_IN_ERROR: usize = 12;

/// How long the guest may take to turn itself off after it was asked to.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(3);

/// How long one call of the agent may take that does not wait for anything.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What a supervisor is started with.
#[derive(Debug)]
pub struct Supervisor {
    /// Where microkube keeps its files.
    pub paths: Paths,
    /// The Pod.
    pub record: PodRecord,
    /// Says that the Pod has an owner.
    pub lock: LockedFile,
    /// The attached command line.
    pub client: std::os::unix::net::UnixStream,
    /// Pass the guest's log on to the client.
    pub debug: bool,
}

/// How a Pod ended, for `run`.
struct Outcome {
    exit_code: u8,
    error: Option<String>,
}

impl Supervisor {
    /// Drives the Pod to its end.
    ///
    /// # Errors
    /// Only what leaves nobody to tell: everything else reaches the client.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            paths,
            mut record,
            lock,
            client,
            debug,
        } = self;
        client.set_nonblocking(true)?;
        let (from_client, mut to_client) = tokio::net::UnixStream::from_std(client)?.into_split();
        let (frames, mut queue) = mpsc::channel::<Frame>(32);
        let writer = tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                // A client that is gone needs nothing more; the senders notice by their closed channel.
                if write_frame(&mut to_client, &frame).await.is_err() {
                    break;
                }
            }
        });
        let (request_sender, mut requests) = mpsc::channel(4);
        let reader = tokio::spawn(read_requests(from_client, request_sender));

        let records = PodRecords::new(paths.clone());
        record.supervisor = ProcessIdentity::current();
        let outcome = drive(&paths, &records, &mut record, &frames, &mut requests, debug).await;
        let outcome = outcome.unwrap_or_else(|error| Outcome {
            exit_code: 1,
            error: Some(format!("{error:#}")),
        });

        let released = release(&paths, &records, &record.uid).await;
        let error = match (outcome.error, released) {
            (None, Err(error)) => Some(format!("cannot release everything of the Pod: {error:#}")),
            (error, _) => error,
        };
        // Nothing may say that the Pod is over before its name is free again.
        drop(lock);
        let _ = frames
            .send(Frame::Notice(Notice::Finished {
                exit_code: outcome.exit_code,
                error,
            }))
            .await;
        drop(frames);
        reader.abort();
        let _ = writer.await;
        Ok(())
    }
}

/// Turns the client's frames into requests. A client that goes away without a word was killed: its Pod goes too.
async fn read_requests(mut from: tokio::net::unix::OwnedReadHalf, requests: mpsc::Sender<Request>) {
    loop {
        let request = match read_frame(&mut from).await {
            Ok(Some(Frame::Request(request))) => request,
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => Request::Kill,
        };
        let last = request == Request::Kill;
        if requests.send(request).await.is_err() || last {
            return;
        }
    }
}

async fn release(paths: &Paths, records: &PodRecords, uid: &str) -> anyhow::Result<()> {
    let network = network::release(&paths.network(), uid).await;
    records.remove(uid)?;
    Ok(network?)
}

async fn drive(
    paths: &Paths,
    records: &PodRecords,
    record: &mut PodRecord,
    frames: &mpsc::Sender<Frame>,
    requests: &mut mpsc::Receiver<Request>,
    debug: bool,
) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    records.save(record)?;
    let log = GuestLog::create(&prepare::guest_log_path(paths, record)?).context("cannot create the guest's log")?;
    let output = Output::new(frames.clone(), log, debug);

    let interrupted = Outcome {
        exit_code: 130,
        error: None,
    };
    let mut stages = Vec::new();
    let prepared = tokio::select! {
        prepared = prepare::prepare(paths, record, frames, debug) => prepared?,
        _ = requests.recv() => return Ok(interrupted),
    };
    let Prepared {
        machine,
        pod_ip,
        sandbox_request,
        containers,
        stages: prepare_stages,
    } = prepared;
    stages.extend(prepare_stages);

    let vmm_start = Instant::now();
    let (mut vm, streams) = VirtualMachine::start(machine)?;
    record.vmm = vm.identity.clone();
    records.save(record)?;
    let booted = tokio::select! {
        booted = sandbox::boot(&mut vm, streams, &output, vmm_start, &mut stages) => booted,
        _ = requests.recv() => {
            vm.end(Duration::ZERO).await;
            return Ok(interrupted);
        }
    };
    let sandbox = match booted {
        Ok(sandbox) => sandbox,
        Err(error) => {
            vm.end(Duration::ZERO).await;
            return Err(error.context(describe_loss(&output, "the Pod's virtual machine did not start")));
        }
    };

    let agent_start = Instant::now();
    let created = tokio::select! {
        created = sandbox.agent.create_sandbox(timeout(CALL_TIMEOUT), &sandbox_request) => created.context("the agent in the guest cannot set up the Pod"),
        event = vm.next_event() => Err(anyhow::anyhow!(vmm_end(event.as_ref()))),
        _ = requests.recv() => {
            vm.end(Duration::ZERO).await;
            return Ok(interrupted);
        }
    };
    let created = match created {
        Ok(created) => created,
        Err(error) => {
            vm.end(Duration::ZERO).await;
            return Err(error.context(describe_loss(&output, "the Pod's sandbox could not be created")));
        }
    };
    sandbox::boot_stages(&mut stages, vmm_start, agent_start, &created);

    let mut run = Run {
        lifecycle: Lifecycle::new(containers.len(), prepare::grace_period(record)),
        sandbox,
        containers: Arc::new(containers),
        output,
        frames: frames.clone(),
        pod_ip,
        stages,
        start,
        lost: None,
    };
    run.run_to_end(&mut vm, requests).await;
    run.power_off(&mut vm).await;
    Ok(run.outcome())
}

/// A container as the agent is asked for it.
#[derive(Debug)]
pub struct PlannedContainer {
    /// Name in the manifest.
    pub name: String,
    /// The request that starts it.
    pub request: StartContainerRequest,
    /// Number of the signal that asks it to stop.
    pub stop_signal: u32,
}

/// The Pod from the first container's start to the last one's end.
struct Run {
    lifecycle: Lifecycle,
    sandbox: Sandbox,
    containers: Arc<Vec<PlannedContainer>>,
    output: Arc<Output>,
    frames: mpsc::Sender<Frame>,
    pod_ip: String,
    stages: Vec<Stage>,
    start: Instant,
    lost: Option<String>,
}

impl Run {
    async fn run_to_end(&mut self, vm: &mut VirtualMachine, requests: &mut mpsc::Receiver<Request>) {
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut pending = VecDeque::from([Event::SandboxReady]);
        let containers_start = Instant::now();
        let mut announced = false;
        loop {
            while let Some(event) = pending.pop_front() {
                self.tell_client(&event).await;
                for action in self.lifecycle.step(self.start.elapsed(), event) {
                    self.carry_out(&action, &sender);
                }
            }
            if !announced
                && !self
                    .lifecycle
                    .containers()
                    .iter()
                    .any(|c| matches!(c, ContainerState::Starting))
            {
                announced = true;
                self.stages.push(Stage::since("container", containers_start));
                self.stages.push(Stage::since("total", self.start));
                let notice = Notice::Running {
                    pod_ip: self.pod_ip.clone(),
                    stages: std::mem::take(&mut self.stages),
                };
                let _ = self.frames.send(Frame::Notice(notice)).await;
            }
            if self.lifecycle.has_ended() {
                return;
            }
            let deadline = self
                .lifecycle
                .deadline()
                .map(|at| tokio::time::Instant::from_std(self.start + at));
            let event = tokio::select! {
                biased;
                Some(event) = events.recv() => event,
                Some(request) = requests.recv() => match request {
                    Request::Terminate { grace } => Event::TerminateRequested(grace),
                    Request::Kill => Event::KillRequested,
                },
                event = vm.next_event() => {
                    let message = describe_loss(&self.output, &vmm_end(event.as_ref()));
                    self.lost = Some(message.clone());
                    Event::SandboxLost(message)
                }
                () = until(deadline) => Event::DeadlineReached,
            };
            pending.push_back(event);
        }
    }

    /// Tells the client of containers that ended.
    async fn tell_client(&self, event: &Event) {
        let (index, exit) = match event {
            Event::ContainerExited(index, exit) => (*index, exit.clone()),
            Event::ContainerStartFailed(index, message) => (*index, Exit::start_error(message.clone())),
            _ => return,
        };
        let notice = Notice::ContainerEnded {
            container: u16::try_from(index).unwrap_or(u16::MAX),
            exit_code: exit.code,
            reason: exit.reason.to_owned(),
            message: exit.message,
        };
        let _ = self.frames.send(Frame::Notice(notice)).await;
    }

    fn carry_out(&self, action: &Action, events: &mpsc::UnboundedSender<Event>) {
        match *action {
            Action::StartContainer(index) => {
                let run = ContainerRun {
                    index,
                    containers: Arc::clone(&self.containers),
                    agent: self.sandbox.agent.clone(),
                    output: Arc::clone(&self.output),
                    events: events.clone(),
                };
                tokio::spawn(run.run_to_end());
            }
            Action::StopContainer(index) => self.signal(index, None),
            Action::KillContainer(index) => self.signal(index, Some(libc::SIGKILL.unsigned_abs())),
            // The caller of the loop does it when the loop ends.
            Action::ShutDownSandbox => {}
        }
    }

    fn signal(&self, index: usize, signal: Option<u32>) {
        let Some(container) = self.containers.get(index) else {
            return;
        };
        let request = SignalContainerRequest {
            id: container.request.id.clone(),
            signal: signal.unwrap_or(container.stop_signal),
            ..Default::default()
        };
        let (agent, name) = (self.sandbox.agent.clone(), container.name.clone());
        tokio::spawn(async move {
            if let Err(error) = agent.signal_container(timeout(CALL_TIMEOUT), &request).await {
                tracing::warn!(
                    "container {name:?} could not be sent signal {}: {error}",
                    request.signal
                );
            }
        });
    }

    async fn power_off(&self, vm: &mut VirtualMachine) {
        if self.lost.is_some() {
            return vm.end(Duration::ZERO).await;
        }
        // Whether it answers does not matter: what counts is that the VMM ends, and `end` sees to that.
        let _ = self
            .sandbox
            .agent
            .shutdown(timeout(POWER_OFF_PATIENCE), &Default::default())
            .await;
        vm.end(POWER_OFF_PATIENCE).await;
    }

    fn outcome(&self) -> Outcome {
        let exit_code = self.lifecycle.first_failure().map_or(0, |(_, exit)| exit.code);
        Outcome {
            exit_code,
            error: self.lost.clone(),
        }
    }
}

/// One container from its start to its end.
struct ContainerRun {
    index: usize,
    containers: Arc<Vec<PlannedContainer>>,
    agent: AgentClientHandle,
    output: Arc<Output>,
    events: mpsc::UnboundedSender<Event>,
}

impl ContainerRun {
    async fn run_to_end(self) {
        let Some(container) = self.containers.get(self.index) else {
            return;
        };
        let id = container.request.id.as_str();
        let streams = self
            .output
            .expect_container(u16::try_from(self.index).unwrap_or(u16::MAX), id);
        if let Err(error) = self
            .agent
            .start_container(timeout(CALL_TIMEOUT), &container.request)
            .await
        {
            self.output.forget_container(id);
            return self.report(Event::ContainerStartFailed(self.index, rpc_message(error)));
        }
        self.report(Event::ContainerStarted(self.index));
        let request = WaitContainerRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        let exit = match self.agent.wait_container(context::with_timeout(0), &request).await {
            Ok(response) => {
                let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
                Exit::of_process(byte(response.exit_code), byte(response.signal), response.oom_killed)
            }
            // The machine is gone, which is noticed and reported as such elsewhere.
            Err(error) => return tracing::warn!("container {:?} cannot be waited for: {error}", container.name),
        };
        streams.finished().await;
        self.report(Event::ContainerExited(self.index, exit));
    }

    fn report(&self, event: Event) {
        // Fails only when the Pod is over.
        let _ = self.events.send(event);
    }
}

fn timeout(duration: Duration) -> Context {
    context::with_duration(duration)
}

fn rpc_message(error: ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message,
        other => other.to_string(),
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Says in a sentence how a machine ended that should not have.
pub(super) fn vmm_end(event: Option<&VmmEvent>) -> String {
    match event {
        Some(VmmEvent::GuestStopped { triple_fault: false }) => {
            "the Pod's virtual machine turned itself off".to_owned()
        }
        Some(VmmEvent::GuestStopped { triple_fault: true }) => {
            "the Pod's virtual machine crashed (triple fault)".to_owned()
        }
        Some(VmmEvent::Failed { message }) => format!("the Pod's virtual machine failed: {message}"),
        Some(VmmEvent::Started { .. }) => "the Pod's virtual machine was started twice".to_owned(),
        None => "the Pod's virtual machine monitor died".to_owned(),
    }
}

/// Adds the end of the guest's log to what is said about its end.
fn describe_loss(output: &Output, what: &str) -> String {
    output.guest_log(|log| {
        let what = match log.panic_line() {
            Some(line) => format!("{what} after a kernel panic ({line})"),
            None => what.to_owned(),
        };
        let lines = log.last_lines(LOG_LINES_IN_ERROR);
        if lines.is_empty() {
            what
        } else {
            format!("{what}; the end of its log:\n  {}\n", lines.join("\n  "))
        }
    })
}
