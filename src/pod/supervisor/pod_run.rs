//! The main loop of a supervisor: passes events to the lifecycle and carries out its actions.

use std::collections::VecDeque;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod};
use microkube_manifest::ephemeral;
use microkube_vmm::config::VmmEvent;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::admission::{first_event, forbidden};
use super::claims::Scheduling;
use super::client_report::ClientReport;
use super::clock::Clock;
use super::ending::{Ending, Outcome};
use super::handlers::Handlers;
use super::images::Images;
use super::machine::{Machine, MachineEnd};
use super::message::{ImageNews, Message};
use super::order::Order;
use super::pod_view::PodView;
use super::record_keeper::{RecordKeeper, timestamp};
use super::recovery;
use super::server::Server;
use super::supervised_pod::{SupervisedPod, current_of};
use crate::pod::claims::has_claims;
use crate::pod::container_order;
use crate::pod::guest_log::{self, GuestLog};
use crate::pod::guest_streams::GuestStreams;
use crate::pod::lifecycle::{Action, Event, ImageUse, Lifecycle, PodChange, PodEvent, Time};
use crate::pod::machine_plan;
use crate::pod::object_watch::ObjectChanges;
use crate::pod::patience::LAST_OUTPUT_PATIENCE;
use crate::pod::pod_update::{self, has_scheduling_gates};
use crate::pod::resolved_pod::node_name;
use crate::pod::sandbox::{describe_loss, vmm_end};
use crate::pod::security_policy::SecurityPolicy;
use crate::pod::supervisor_protocol::{Change, Notice, SupervisorFrame, UpdateRequest};
use crate::privileged::Privileges;
use crate::state::{Paths, PodRecord};

/// Maximum number of ephemeral containers of a Pod. Ephemeral containers are never removed, and the Pod's records must
/// stay small.
const MAX_EPHEMERAL_CONTAINERS: usize = 64;

/// A file system with fewer free bytes than this is full.
const FULL_DISK_BYTES: u64 = 64 << 10;

/// A Pod, and the parts of its supervisor.
#[derive(Debug)]
pub struct PodRun {
    pod: Arc<SupervisedPod>,
    lifecycle: Lifecycle,
    clock: Clock,
    messages: mpsc::UnboundedReceiver<Message>,
    /// The initial events.
    first: Vec<Event>,
    keeper: RecordKeeper,
    images: Images,
    /// Finds volumes for the Pod's claims before its life begins.
    scheduling: Option<Scheduling>,
    machine: Machine,
    handlers: Handlers,
    view: PodView,
    report: ClientReport,
    ending: Ending,
    /// Changes of the objects that the Pod refers to.
    changes: ObjectChanges,
    /// Serves command lines while the Pod lives.
    server: Option<Server>,
}

impl PodRun {
    /// Opens the Pod's records, and takes over the VM if the previous supervisor left one.
    pub async fn new(
        paths: Paths,
        record: PodRecord,
        client: Option<mpsc::Sender<SupervisorFrame>>,
        orders: mpsc::Sender<Order>,
        debug: bool,
    ) -> anyhow::Result<Self> {
        let privileges = Privileges::new(&paths).of_pod(&record.uid)?;
        let mut keeper = RecordKeeper::new(&paths, record.clone())?;
        let is_gated = has_scheduling_gates(&record.pod);
        let has_claims = has_claims(&record.pod);
        if !is_gated && !has_claims {
            keeper.note_scheduled(&node_name());
        }
        let clock = Clock::new();
        let lifecycle = Lifecycle::new(&record.pod, clock.now());
        let log = GuestLog::begin(guest_log::path(&paths, &record));
        let (inbox, messages) = mpsc::unbounded_channel();
        let pod = Arc::new(SupervisedPod {
            guest_streams: GuestStreams::new(client.clone(), log, debug),
            changes: ObjectChanges::of_pod(&paths, &record.pod),
            tokens: Arc::default(),
            paths,
            privileges,
            current: current_of(&record),
            record,
            client,
            debug,
            inbox,
        });
        let view = PodView::new(&pod);
        let mut run = Self {
            lifecycle,
            clock,
            messages,
            first: Vec::new(),
            keeper,
            images: Images::new(Arc::clone(&pod)),
            scheduling: None,
            machine: Machine::new(Arc::clone(&pod), view.clone()),
            handlers: Handlers::new(Arc::clone(&pod)),
            view,
            report: ClientReport::new(Arc::clone(&pod)),
            ending: Ending::default(),
            changes: pod.changes.clone(),
            server: None,
            pod,
        };
        if let Some(lifecycle) = run.keeper.restore()? {
            run.lifecycle = lifecycle;
            // The previous supervisor may have died after it recorded a change, and before it recorded the lifecycle.
            let change = PodChange::of(&run.pod.record.pod);
            run.first = vec![run.take_over().await, Event::PodChanged { change }];
        }
        if !run.lifecycle.has_begun() {
            let decided = match (has_claims, is_gated) {
                (true, _) => Event::Unplaced { why: None },
                (false, true) => Event::Begin,
                (false, false) => first_event(&run.pod.record, &SecurityPolicy::of_environment()?),
            };
            if has_claims && !is_gated {
                run.scheduling = Some(Scheduling::start(&run.pod));
            }
            // The previous supervisor left no VM.
            run.first.splice(..run.first.len().min(1), [decided]);
        }
        // Start to listen only now: clients of the socket rely on the Pod being known.
        let (paths, uid) = (&run.pod.paths, &run.pod.record.uid);
        run.server = Some(Server::listen(paths, uid, run.view.clone(), orders)?);
        Ok(run)
    }

    /// Returns the event that tells the restored lifecycle what has happened to the VM.
    async fn take_over(&mut self) -> Event {
        let found = recovery::take_over(&self.pod, &mut self.machine, &self.view, &self.lifecycle).await;
        match found {
            Some(found) => Event::SupervisorRestarted {
                found: found.known,
                starting: found.starting,
            },
            None => {
                self.lose_machine().await;
                Event::SupervisorRestartedAlone {
                    message: "the Pod's VM was lost together with its supervisor".to_owned(),
                }
            }
        }
    }

    /// Drives the Pod to its end.
    pub async fn drive(mut self, mut orders: mpsc::Receiver<Order>) -> anyhow::Result<Outcome> {
        let result = self.run(&mut orders).await;
        drop(self.server.take());
        // Even after an error: no VM may run without a supervisor.
        let end = match result {
            Ok(_) => MachineEnd::PowerOff,
            Err(_) => MachineEnd::Kill,
        };
        self.stop_machine(end).await;
        result?;
        Ok(self.ending.outcome(&self.pod, &self.lifecycle))
    }

    async fn run(&mut self, orders: &mut mpsc::Receiver<Order>) -> anyhow::Result<()> {
        let mut pending = VecDeque::from(std::mem::take(&mut self.first));
        if let Some(event) = pending.pop_front() {
            self.take(event).await?;
        }
        self.add_missing().await?;
        loop {
            while let Some(event) = pending.pop_front() {
                self.take(event).await?;
            }
            self.report.announce(self.machine.pod_ip()).await;
            if self.lifecycle.has_ended() {
                return Ok(());
            }
            tokio::select! {
                biased;
                Some(message) = self.messages.recv() => pending.extend(self.event_of(message).await?),
                Some(order) = orders.recv() => {
                    let (event, noted) = match order {
                        Order::Terminate { grace, deletion, noted } => {
                            (Event::TerminateRequested { grace, deletion }, noted)
                        }
                        Order::Kill => (Event::KillRequested, None),
                        Order::AddEphemeralContainer { container, answer } => {
                            let _ = answer.send(self.add_container(*container).await?);
                            continue;
                        }
                        Order::Update { request, answer } => {
                            let _ = answer.send(self.update(request).await?);
                            continue;
                        }
                    };
                    self.ending.was_ordered();
                    self.take(event).await?;
                    if let Some(noted) = noted {
                        let _ = noted.send(());
                    }
                }
                event = self.machine.next_event() => {
                    if let Some(VmmEvent::DiskFailed { message }) = event {
                        self.disk_failed(message).await;
                        continue;
                    }
                    note_full_disk(&self.pod);
                    let message = describe_loss(&self.pod.guest_streams, &vmm_end(event.as_ref()));
                    self.lose_machine().await;
                    self.ending.machine_was_lost(message.clone());
                    pending.push_back(Event::SandboxLost { message });
                }
                () = self.changes.changed() => pending.push_back(Event::ObjectsChanged),
                () = self.clock.wait_until(self.lifecycle.deadline()) => pending.push_back(Event::DeadlineReached),
            }
        }
    }

    /// Converts a message to an event for the lifecycle.
    async fn event_of(&mut self, message: Message) -> anyhow::Result<Option<Event>> {
        let event = match message {
            Message::Event(event) => Some(event),
            Message::Scheduled => {
                self.scheduling = None;
                self.keeper.note_scheduled(&node_name());
                Some(first_event(&self.pod.record, &SecurityPolicy::of_environment()?))
            }
            Message::Emit(event) => {
                self.emit(&event);
                None
            }
            Message::Image { of, request, .. } if !self.images.is_current(of, request) => None,
            Message::Image { of, news, .. } => Some(self.event_of_image(of, news)),
            Message::VmmStarted(identity) => {
                self.machine.vmm_started(identity.clone());
                self.keeper.note_vmm(identity);
                None
            }
            Message::ContainerPrepared { attempt, added } => {
                self.machine.containers.prepared(attempt.container, *added);
                // The attempt may have been abandoned meanwhile.
                if self.lifecycle.expects(attempt) {
                    self.machine.containers.start(attempt).await;
                }
                None
            }
            Message::MachineStarted(started) => self.machine.started(*started).map(|(event, stages)| {
                self.report.add_stages(stages);
                event
            }),
        };
        Ok(event)
    }

    /// Converts a report about an image to an event.
    fn event_of_image(&mut self, of: ImageUse, news: ImageNews) -> Event {
        match news {
            ImageNews::PullStarted => Event::ImagePullStarted { of },
            ImageNews::Ready(image) => {
                let image_id = image.kubernetes_id().to_owned();
                self.report.add_stages(self.images.add(of, *image));
                Event::ImageReady { of, image_id }
            }
            ImageNews::Failed { reason, message } => {
                if self.lifecycle.has_sandbox() {
                    // No layers need protection until the next pull.
                    drop(self.images.take_hold());
                }
                Event::ImageFailed { of, reason, message }
            }
        }
    }

    /// Changes the Pod. Returns the answer to the client.
    async fn update(&mut self, request: UpdateRequest) -> anyhow::Result<Notice> {
        let current = self.pod.current();
        if request.since != current.metadata.resource_version {
            return Ok(Notice::Outdated);
        }
        let wanted = match request.change {
            Change::Pod(wanted) => wanted,
            Change::Conditions { since, .. } if self.lifecycle.client_conditions() != since => {
                return Ok(Notice::Outdated);
            }
            Change::Conditions { wanted: conditions, .. } => {
                self.step(Event::ConditionsSet { conditions }).await?;
                return Ok(Notice::Done);
            }
        };
        let deleted_at = self.lifecycle.deletion().map(|(at, _)| timestamp(at));
        let changed = match pod_update::changed(&current, deleted_at.as_ref(), &wanted) {
            Ok(Some(changed)) => changed,
            Ok(None) => return Ok(Notice::Done),
            Err(problems) => {
                let messages: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
                return Ok(refused(messages.join(", ")));
            }
        };
        // Record the change before acting on it.
        let changed = match self.keeper.change(changed).await {
            Ok(changed) => changed,
            Err(error) => return Ok(refused(format!("cannot record the change: {error:#}"))),
        };
        let is_gated = has_scheduling_gates(&changed);
        let has_claims = has_claims(&changed);
        if !is_gated && !has_claims {
            self.keeper.note_scheduled(&node_name());
            if !self.lifecycle.has_begun() {
                // Security contexts do not change.
                let decided = first_event(&self.pod.record, &SecurityPolicy::of_environment()?);
                if decided != Event::Begin {
                    self.take(decided).await?;
                }
            }
        }
        let change = PodChange::of(&changed);
        self.pod.current.send_replace(Arc::new(changed));
        self.step(Event::PodChanged { change }).await?;
        if !is_gated && has_claims && self.lifecycle.is_unplaced() && self.scheduling.is_none() {
            self.scheduling = Some(Scheduling::start(&self.pod));
        }
        Ok(Notice::Done)
    }

    /// Processes an event and its immediate consequences.
    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        if self.ending.is_hopeless(&self.pod, &event) {
            // Kill the Pod first, so nothing more is started.
            self.step(Event::KillRequested).await?;
            // After the kill, the lifecycle still waits for a container that was starting, but not for images or a
            // VM.
            if !matches!(event, Event::ContainerStartFailed { .. }) {
                return Ok(());
            }
        }
        self.step(event).await
    }

    async fn step(&mut self, event: Event) -> anyhow::Result<()> {
        if let Event::SandboxReady { .. } = &event
            && let Some(loss) = self.ending.machine_is_ready()
        {
            let warning = format!("{loss}; the Pod was restarted in a new VM");
            self.report.warn(warning).await;
        }
        self.view.note(&event);
        self.handlers.note(&event);
        self.report.note(&event).await;
        let now = self.clock.now();
        let actions = self.lifecycle.step(now, event);
        self.keep_and_carry_out(now, actions).await
    }

    async fn keep_and_carry_out(&mut self, now: Time, actions: Vec<Action>) -> anyhow::Result<()> {
        if let Err(error) = self.keeper.keep(&self.lifecycle, now).await {
            // A full disk does not end running containers. The next step tries again.
            tracing::error!("cannot write the Pod's records: {error:#}");
        }
        for action in actions {
            self.carry_out(action).await?;
        }
        Ok(())
    }

    /// Adds an ephemeral container to the Pod. Returns the answer to the client.
    async fn add_container(&mut self, mut container: EphemeralContainer) -> anyhow::Result<Notice> {
        ephemeral::set_defaults(&mut container);
        let current = self.pod.current();
        if let Err(message) = check_added(&current, &container, &self.lifecycle) {
            return Ok(refused(message));
        }
        let mut changed = Pod::clone(&current);
        changed
            .spec
            .get_or_insert_default()
            .ephemeral_containers
            .get_or_insert_default()
            .push(container.clone());
        let generation = changed
            .metadata
            .generation
            .map(|generation| generation.saturating_add(1));
        changed.metadata.generation = generation;
        if let Some(problems) = forbidden(&changed, &SecurityPolicy::of_environment()?) {
            let name = &self.pod.record.name;
            return Ok(refused(format!("The Pod {name:?} is invalid: {problems}")));
        }
        let changed = match self.keeper.change(changed).await {
            Ok(changed) => changed,
            Err(error) => return Ok(refused(format!("cannot record the container: {error:#}"))),
        };
        self.pod.changes.follow(&changed);
        self.pod.current.send_replace(Arc::new(changed));
        self.view.add_container(&container.name);
        self.start_added(&container).await?;
        Ok(Notice::Done)
    }

    /// Adds a recorded container to the lifecycle.
    async fn start_added(&mut self, container: &EphemeralContainer) -> anyhow::Result<()> {
        let now = self.clock.now();
        let generation = self.pod.current().metadata.generation;
        let actions = self.lifecycle.add_ephemeral(now, container, generation);
        self.keep_and_carry_out(now, actions).await
    }

    /// Adds the containers that the previous supervisor recorded but did not add to the lifecycle before it died.
    async fn add_missing(&mut self) -> anyhow::Result<()> {
        let current = self.pod.current();
        let known = self.lifecycle.ephemeral_count();
        for container in container_order::ephemeral_containers(&current).skip(known) {
            self.start_added(container).await?;
        }
        Ok(())
    }

    /// Carries out an action of the lifecycle. Slow work runs in tasks that report when they are done.
    async fn carry_out(&mut self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::PullImage { of } => {
                // Acquire resources at the same time: the first VM needs them.
                self.machine.acquire_resources();
                self.images.pull(of).await?;
            }
            Action::StartSandbox => {
                let image_ids = (0..).map_while(|container| self.lifecycle.image_id(container));
                let image_ids = image_ids.map(str::to_owned).collect();
                self.machine.start(self.images.for_machine(), image_ids);
            }
            Action::StopSandbox => {
                let end = match self.lifecycle.replaces_sandbox() {
                    true => MachineEnd::Replace,
                    false => MachineEnd::PowerOff,
                };
                self.stop_machine(end).await;
                self.pod.report(Event::SandboxLost {
                    message: "the Pod's VM was turned off".to_owned(),
                });
            }
            Action::StartContainer { attempt } => {
                let hold = self.images.take_hold();
                let image_id = self.lifecycle.image_id(attempt.container).unwrap_or_default();
                match self.machine.containers.is_prepared(attempt.container, image_id) {
                    true => self.machine.containers.start(attempt).await,
                    false => {
                        let image = self.images.get(attempt.container);
                        let image_id = image_id.to_owned();
                        self.machine.containers.prepare(attempt, image_id, image, hold);
                    }
                }
            }
            Action::StopContainer { attempt } => self.machine.containers.stop(attempt),
            Action::KillContainer { attempt } => self.machine.containers.kill(attempt),
            Action::RunHook { attempt, hook, timeout } => {
                if let Some(guest) = self.machine.guest() {
                    self.handlers.run_hook(guest, attempt, hook, timeout);
                }
            }
            Action::CancelHook { attempt, hook } => self.handlers.cancel_hook(attempt, hook),
            Action::RunProbe { attempt, probe } => {
                if let Some(guest) = self.machine.guest() {
                    self.handlers.run_probe(guest, attempt, probe);
                }
            }
            Action::Emit(event) => self.emit(&event),
        }
        Ok(())
    }

    fn emit(&mut self, event: &PodEvent) {
        let field_path = event.container.map(|container| self.pod.field_path(container));
        self.keeper.add(event, field_path);
    }

    async fn lose_machine(&mut self) {
        self.machine.discard_lost().await;
        // The end of the VM's containers must not be reported before their output is complete.
        self.pod
            .guest_streams
            .drained(Instant::now() + LAST_OUTPUT_PATIENCE)
            .await;
        self.forget_machine();
    }

    async fn stop_machine(&mut self, end: MachineEnd) {
        self.machine.stop(end).await;
        self.forget_machine();
    }

    /// Removes a VM that has ended from the records.
    fn forget_machine(&mut self) {
        self.keeper.note_vmm(None);
        // The files may not exist.
        let (paths, uid) = (&self.pod.paths, &self.pod.record.uid);
        for path in [machine_plan::path(paths, uid), machine_plan::added_path(paths, uid)] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Reports that the Pod's disk can no longer be written. A guest that notices this ends its VM.
    async fn disk_failed(&mut self, error: String) {
        let directory = self.pod.paths.state_dir().display();
        let message = format!("Cannot write the Pod's scratch disk in {directory}: {error}");
        tracing::error!("{message}");
        let event = PodEvent {
            warning: true,
            reason: "FailedSync",
            message: message.clone(),
            container: None,
        };
        self.keeper.add(&event, None);
        self.report.warn(message).await;
        self.pod.guest_streams.guest_log(|log| log.note_disk_failure(error));
    }
}

/// Checks an ephemeral container before it is added to a Pod.
fn check_added(pod: &Pod, container: &EphemeralContainer, lifecycle: &Lifecycle) -> Result<(), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if lifecycle.is_terminating() {
        return Err(format!("cannot add a container to pod {name:?}: it is ending"));
    }
    let problems = ephemeral::validate_added(pod, container);
    if !problems.is_empty() {
        let messages: Vec<_> = problems.into_iter().map(|problem| problem.message).collect();
        return Err(format!("The Pod {name:?} is invalid: {}", messages.join(", ")));
    }
    if lifecycle.ephemeral_count() >= MAX_EPHEMERAL_CONTAINERS {
        return Err(format!(
            "cannot add a container to pod {name:?}: it has {MAX_EPHEMERAL_CONTAINERS} ephemeral containers already"
        ));
    }
    Ok(())
}

fn refused(message: String) -> Notice {
    Notice::Refused { message }
}

/// An adopted VMM sends no reports, but a full disk may still be visible as the cause of its loss.
fn note_full_disk(pod: &SupervisedPod) {
    let state_dir = pod.paths.state_dir();
    let is_full = nix::sys::statvfs::statvfs(state_dir)
        .is_ok_and(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()) < FULL_DISK_BYTES);
    if is_full {
        let message = format!("the file system of {} is full", state_dir.display());
        pod.guest_streams.guest_log(|log| {
            if log.disk_failure().is_none() {
                log.note_disk_failure(message);
            }
        });
    }
}
