//! The loop of a Pod's life: what happened goes into the lifecycle, what it decides is carried out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::jiff::Timestamp;
use microkube_vmm::config::VmmEvent;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::machine::{Machine, PendingResources, StartedMachine};
use super::record_keeper::RecordKeeper;
use super::server::{Running, Server};
use super::{Order, Outcome};
use crate::image::{Image, StoreLock};
use crate::pod::attach::{Frame, Notice};
use crate::pod::container_spec::{PlanFailure, PlannedContainer};
use crate::pod::guest_log::GuestLog;
use crate::pod::lifecycle::{Event, Hook, Lifecycle, PodEvent, Time};
use crate::pod::output::Output;
use crate::pod::prepare;
use crate::pod::sandbox::{describe_loss, vmm_end};
use crate::pod::timings::Stage;
use crate::state::{Paths, PodRecord, PodRecords, ProcessIdentity};

/// What `run` exits with when it was interrupted before anything ran, as a shell has it.
const INTERRUPTED: u8 = 130;

/// How long a machine may take to end after its agent is gone. One that goes on without is of no use: nobody knows what runs in it.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(5);

/// A file system with less than this is full, bytes.
const FULL_DISK_BYTES: u64 = 64 << 10;

/// What comes back from the tasks that carry actions out.
#[derive(Debug)]
pub enum Message {
    /// For the lifecycle.
    Event(Event),
    /// An image is there.
    Image { container: usize, image: Box<Image> },
    /// The machine's process was started; the machine itself comes later.
    VmmStarted(Option<ProcessIdentity>),
    /// The machine runs, and its agent has made the sandbox.
    MachineStarted(Box<StartedMachine>),
}

/// Wall-clock time that never jumps while this process runs.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    start_time: Time,
}

impl Clock {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            start_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }

    /// Now.
    pub fn now(&self) -> Time {
        self.start_time.saturating_add(self.start.elapsed())
    }

    /// When it is that time.
    fn instant(&self, time: Time) -> tokio::time::Instant {
        let ahead = time.saturating_sub(self.start_time);
        // Centuries ahead is as good as never.
        let far = self.start + Duration::from_secs(1 << 31);
        tokio::time::Instant::from_std(self.start.checked_add(ahead).unwrap_or(far).min(far))
    }
}

/// A point in time as Kubernetes' objects have it.
pub fn timestamp(time: Time) -> meta::Time {
    let nanoseconds = i128::try_from(time.as_nanos()).unwrap_or(i128::MAX);
    meta::Time(Timestamp::from_nanosecond(nanoseconds).unwrap_or(Timestamp::MAX))
}

/// A Pod and all that this process has of it.
#[derive(Debug)]
pub struct PodRun {
    pub(super) paths: Paths,
    pub(super) records: PodRecords,
    pub(super) record: PodRecord,
    pub(super) lifecycle: Lifecycle,
    pub(super) keeper: RecordKeeper,
    pub(super) clock: Clock,
    pub(super) output: Arc<Output>,
    /// The command line that stays attached.
    pub(super) client: Option<mpsc::Sender<Frame>>,
    pub(super) debug: bool,
    pub(super) inbox: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    /// What is to happen first.
    pub(super) first: Vec<Event>,
    pub(super) images: Vec<Option<Image>>,
    /// Keeps layers from being removed between finding them and opening them.
    pub(super) hold: Option<StoreLock>,
    pub(super) resources: Option<PendingResources>,
    pub(super) starting: Option<AbortHandle>,
    pub(super) vmm: Option<ProcessIdentity>,
    pub(super) machine: Option<Machine>,
    pub(super) plan: Vec<Result<PlannedContainer, PlanFailure>>,
    pub(super) hooks: HashMap<(usize, u32, Hook), AbortHandle>,
    /// What sessions of command lines see of the Pod.
    pub(super) running: Running,
    pub(super) stages: Vec<Stage>,
    pub(super) image_start: Option<Instant>,
    pub(super) container_start: Option<Instant>,
    started: Vec<bool>,
    start: Instant,
    announced: bool,
    sandbox_was_ready: bool,
    interrupted: bool,
    /// Why the Pod cannot go on.
    failure: Option<String>,
    /// How its machine was lost, until there is another.
    loss: Option<String>,
    /// Serves command lines as long as the Pod lives.
    server: Option<Server>,
}

impl PodRun {
    /// Opens the Pod's records, and takes over what a supervisor before this one left running.
    pub async fn new(
        paths: Paths,
        record: PodRecord,
        client: Option<mpsc::Sender<Frame>>,
        orders: mpsc::Sender<Order>,
        debug: bool,
    ) -> anyhow::Result<Self> {
        let records = PodRecords::new(paths.clone());
        if let Err(error) = records.save(&record) {
            // A full disk is no reason to give up a Pod that runs.
            tracing::error!("the Pod's record cannot be written: {error}");
        }
        let log = GuestLog::begin(prepare::guest_log_path(&paths, &record));
        let output = Output::new(client.clone(), log, debug);
        let running = Running::new(records.clone(), &record, Arc::clone(&output));
        let mut keeper = RecordKeeper::new(
            records.clone(),
            &record.uid,
            paths.pod_state(&record.uid),
            record.detached,
        )?;
        keeper.note_scheduled(&record, &prepare::node_name());
        let clock = Clock::new();
        let (inbox, messages) = mpsc::unbounded_channel();
        let count = prepare::containers(&record.pod).count();
        let mut run = Self {
            lifecycle: Lifecycle::new(&record.pod, clock.now()),
            paths,
            records,
            record,
            keeper,
            clock,
            output,
            client,
            debug,
            inbox,
            messages,
            first: vec![Event::Begin],
            images: vec![None; count],
            hold: None,
            resources: None,
            starting: None,
            vmm: None,
            machine: None,
            plan: Vec::new(),
            hooks: HashMap::new(),
            running,
            stages: Vec::new(),
            image_start: None,
            container_start: None,
            started: vec![false; count],
            start: Instant::now(),
            announced: false,
            sandbox_was_ready: false,
            interrupted: false,
            failure: None,
            loss: None,
            server: None,
        };
        if let Some(lifecycle) = run.keeper.restore()? {
            run.lifecycle = lifecycle;
            run.first = run.take_over().await;
        }
        // Not before the Pod is known: who reaches it by the socket can rely on that.
        run.server = Some(Server::listen(
            &run.paths,
            &run.record.uid,
            run.running.clone(),
            orders,
        )?);
        Ok(run)
    }

    /// Drives the Pod to its end.
    pub async fn drive(mut self, mut orders: mpsc::Receiver<Order>) -> anyhow::Result<Outcome> {
        let result = self.run(&mut orders).await;
        drop(self.server.take());
        // Whatever happened: no machine stays without a supervisor that knows of it.
        self.stop_machine(result.is_ok()).await;
        result?;
        let deleted = self.lifecycle.deletion().is_some();
        Ok(Outcome {
            exit_code: match (&self.failure, self.interrupted) {
                (Some(_), _) if !self.sandbox_was_ready => 1,
                (None, true) if !self.sandbox_was_ready => INTERRUPTED,
                _ => self.lifecycle.exit_code(),
            },
            error: self.failure.or(self.loss),
            forget: deleted || !self.record.detached,
        })
    }

    async fn run(&mut self, orders: &mut mpsc::Receiver<Order>) -> anyhow::Result<()> {
        let mut pending = VecDeque::from(std::mem::take(&mut self.first));
        loop {
            while let Some(event) = pending.pop_front() {
                self.take(event).await?;
            }
            self.announce().await;
            if self.lifecycle.has_ended() {
                return Ok(());
            }
            let deadline = self.lifecycle.deadline().map(|time| self.clock.instant(time));
            let machine = &mut self.machine;
            tokio::select! {
                biased;
                Some(message) = self.messages.recv() => pending.extend(self.hear(message)),
                Some(order) = orders.recv() => {
                    let (event, noted) = self.obey(order);
                    self.take(event).await?;
                    if let Some(noted) = noted {
                        let _ = noted.send(());
                    }
                }
                event = next_event(machine) => {
                    if let Some(VmmEvent::DiskFailed { message }) = event {
                        self.disk_failed(message).await;
                        continue;
                    }
                    self.note_full_disk();
                    let message = describe_loss(&self.output, &vmm_end(event.as_ref()));
                    self.lose_machine().await;
                    self.loss = Some(message.clone());
                    pending.push_back(Event::SandboxLost { message });
                }
                () = until(deadline) => pending.push_back(Event::DeadlineReached),
            }
        }
    }

    /// Says that the Pod's disk cannot be written any more. A guest that notices it ends its machine.
    async fn disk_failed(&mut self, error: String) {
        let directory = self.paths.state_dir().display();
        let message = format!("The Pod's scratch disk in {directory} cannot be written: {error}");
        tracing::error!("{message}");
        let event = PodEvent {
            warning: true,
            reason: "FailedSync",
            message: message.clone(),
            container: None,
        };
        self.keeper.add(&event, None);
        if let Some(client) = &self.client {
            let _ = client.send(Frame::Notice(Notice::Warning(message))).await;
        }
        self.output.guest_log(|log| log.note_disk_failure(error));
    }

    /// A VMM that was taken over reports nothing: why its machine was lost may still be seen.
    fn note_full_disk(&self) {
        let is_full = nix::sys::statvfs::statvfs(self.paths.state_dir())
            .is_ok_and(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()) < FULL_DISK_BYTES);
        if is_full {
            let message = format!("the file system of {} is full", self.paths.state_dir().display());
            self.output.guest_log(|log| {
                if log.disk_failure().is_none() {
                    log.note_disk_failure(message);
                }
            });
        }
    }

    fn obey(&mut self, order: Order) -> (Event, Option<tokio::sync::oneshot::Sender<()>>) {
        self.interrupted = true;
        match order {
            Order::Terminate { grace, deletion, noted } => (Event::TerminateRequested { grace, deletion }, noted),
            Order::Kill => (Event::KillRequested, None),
        }
    }

    /// What a message means to the lifecycle.
    fn hear(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Event(event) => Some(event),
            Message::Image { container, image } => {
                let image_id = image.kubernetes_id().to_owned();
                if let Some(slot) = self.images.get_mut(container) {
                    *slot = Some(*image);
                }
                if self.images.iter().all(Option::is_some)
                    && let Some(start) = self.image_start.take()
                {
                    self.stages.push(Stage::since("image", start));
                }
                Some(Event::ImageReady { container, image_id })
            }
            Message::VmmStarted(identity) => {
                self.vmm = identity.clone();
                self.record.vmm = identity;
                self.save_record();
                None
            }
            Message::MachineStarted(started) => self.machine_started(*started),
        }
    }

    /// Takes in what happened.
    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        let event = self.end_if_hopeless(event);
        match &event {
            Event::SandboxReady { .. } => {
                self.sandbox_was_ready = true;
                if let (Some(loss), Some(client)) = (self.loss.take(), &self.client) {
                    let warning = format!("{loss}; the Pod was started again in another one");
                    let _ = client.send(Frame::Notice(Notice::Warning(warning))).await;
                }
                self.container_start.get_or_insert_with(Instant::now);
            }
            Event::ContainerStarted { container, .. } => {
                if let Some(started) = self.started.get_mut(*container) {
                    *started = true;
                }
            }
            _ => {}
        }
        self.running.note(&event);
        self.tell_client(&event).await;
        let now = self.clock.now();
        let actions = self.lifecycle.step(now, event);
        if let Err(error) = self.keeper.keep(&self.lifecycle, now).await {
            // A full disk is no reason to end what runs. The next step tries again.
            tracing::error!("the Pod's records cannot be written: {error:#}");
        }
        for action in actions {
            self.carry_out(action).await?;
        }
        Ok(())
    }

    /// In the foreground somebody waits: what Kubernetes would try for ever ends the Pod there.
    fn end_if_hopeless(&mut self, event: Event) -> Event {
        if self.record.detached {
            return event;
        }
        let error = match &event {
            Event::ImageFailed { container, message, .. } => {
                format!("container {:?}: {message}", self.container_name(*container))
            }
            Event::SandboxFailed { message } => message.clone(),
            // A container that could not even be created: the same attempt would be made again and again.
            Event::ContainerStartFailed {
                container,
                reason,
                message,
                ..
            } if reason.starts_with("Create") => {
                format!("container {:?}: {message}", self.container_name(*container))
            }
            _ => return event,
        };
        if !self.interrupted {
            self.failure.get_or_insert(error);
        }
        Event::KillRequested
    }

    /// Tells the client of containers that ended.
    async fn tell_client(&self, event: &Event) {
        let Some(client) = &self.client else { return };
        let (container, exit_code, reason, message) = match event {
            Event::ContainerExited { container, exit, .. } => {
                (*container, exit.code, exit.reason.clone(), exit.message.clone())
            }
            Event::ContainerStartFailed {
                container,
                reason,
                message,
                ..
            } => (*container, 128, reason.clone(), Some(message.clone())),
            _ => return,
        };
        let notice = Notice::ContainerEnded {
            container: u16::try_from(container).unwrap_or(u16::MAX),
            exit_code,
            reason,
            message,
        };
        let _ = client.send(Frame::Notice(notice)).await;
    }

    /// Says once that all containers were started.
    async fn announce(&mut self) {
        let Some(client) = self.client.as_ref().filter(|_| !self.announced) else {
            return;
        };
        let Some(machine) = &self.machine else { return };
        if !self.started.iter().all(|started| *started) {
            return;
        }
        self.announced = true;
        if let Some(start) = self.container_start {
            self.stages.push(Stage::since("container", start));
        }
        self.stages.push(Stage::since("total", self.start));
        let notice = Notice::Running {
            pod_ip: machine.pod_ip.clone(),
            stages: std::mem::take(&mut self.stages),
        };
        let _ = client.send(Frame::Notice(notice)).await;
    }
}

async fn next_event(machine: &mut Option<Machine>) -> Option<VmmEvent> {
    let Some(machine) = machine else {
        return std::future::pending().await;
    };
    let lost = tokio::select! {
        biased;
        event = machine.vm.next_event() => return event,
        lost = machine.sandbox.agent.lost() => lost,
    };
    // A machine that ends loses its agent, too: it has a moment to say so.
    let end = tokio::time::timeout_at(lost.at + LAST_WORD_PATIENCE, machine.vm.next_event());
    end.await.unwrap_or_else(|_| {
        Some(VmmEvent::Failed {
            message: format!("its agent {}", lost.why),
        })
    })
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
