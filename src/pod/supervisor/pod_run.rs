//! The loop of a Pod's life: what happened goes into the lifecycle, what it decides is carried out.

use std::collections::VecDeque;
use std::sync::Arc;

use microkube_vmm::config::VmmEvent;
use tokio::sync::mpsc;

use super::client_report::ClientReport;
use super::clock::Clock;
use super::ending::{Ending, Outcome};
use super::handlers::Handlers;
use super::images::Images;
use super::machine::Machine;
use super::message::Message;
use super::order::Order;
use super::pod_view::PodView;
use super::record_keeper::RecordKeeper;
use super::recovery;
use super::server::Server;
use super::supervised_pod::SupervisedPod;
use crate::pod::guest_log::{self, GuestLog};
use crate::pod::guest_streams::GuestStreams;
use crate::pod::lifecycle::{Action, Event, Lifecycle, PodEvent};
use crate::pod::machine_plan;
use crate::pod::resolved_pod::node_name;
use crate::pod::sandbox::{describe_loss, vmm_end};
use crate::pod::supervisor_protocol::SupervisorFrame;
use crate::privileged::Privileges;
use crate::state::{Paths, PodRecord};

/// A file system with less than this is full, bytes.
const FULL_DISK_BYTES: u64 = 64 << 10;

/// A Pod, and the parts of its supervisor.
#[derive(Debug)]
pub struct PodRun {
    pod: Arc<SupervisedPod>,
    lifecycle: Lifecycle,
    clock: Clock,
    messages: mpsc::UnboundedReceiver<Message>,
    /// The first event.
    first: Vec<Event>,
    keeper: RecordKeeper,
    images: Images,
    machine: Machine,
    handlers: Handlers,
    view: PodView,
    report: ClientReport,
    ending: Ending,
    /// Serves command lines as long as the Pod lives.
    server: Option<Server>,
}

impl PodRun {
    /// Opens the Pod's records, and takes over what a supervisor before this one left running.
    pub async fn new(
        paths: Paths,
        record: PodRecord,
        client: Option<mpsc::Sender<SupervisorFrame>>,
        orders: mpsc::Sender<Order>,
        debug: bool,
    ) -> anyhow::Result<Self> {
        let privileges = Privileges::new(&paths).of_pod(&record.uid)?;
        let mut keeper = RecordKeeper::new(&paths, record.clone())?;
        keeper.note_scheduled(&node_name());
        let clock = Clock::new();
        let lifecycle = Lifecycle::new(&record.pod, clock.now());
        let log = GuestLog::begin(guest_log::path(&paths, &record));
        let (inbox, messages) = mpsc::unbounded_channel();
        let pod = Arc::new(SupervisedPod {
            guest_streams: GuestStreams::new(client.clone(), log, debug),
            paths,
            privileges,
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
            first: vec![Event::Begin],
            keeper,
            images: Images::new(Arc::clone(&pod)),
            machine: Machine::new(Arc::clone(&pod), view.clone()),
            handlers: Handlers::new(Arc::clone(&pod)),
            view,
            report: ClientReport::new(Arc::clone(&pod)),
            ending: Ending::default(),
            server: None,
            pod,
        };
        if let Some(lifecycle) = run.keeper.restore()? {
            run.lifecycle = lifecycle;
            run.first = vec![run.take_over().await];
        }
        // Only now that the Pod is known, which clients of the socket rely on.
        let (paths, uid) = (&run.pod.paths, &run.pod.record.uid);
        run.server = Some(Server::listen(paths, uid, run.view.clone(), orders)?);
        Ok(run)
    }

    /// What has become of the machine in the meantime, for the restored lifecycle.
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
                    message: "the Pod's virtual machine was lost together with its supervisor".to_owned(),
                }
            }
        }
    }

    /// Drives the Pod to its end.
    pub async fn drive(mut self, mut orders: mpsc::Receiver<Order>) -> anyhow::Result<Outcome> {
        let result = self.run(&mut orders).await;
        drop(self.server.take());
        // In any case: no machine may stay without a supervisor that knows of it.
        self.stop_machine(result.is_ok()).await;
        result?;
        Ok(self.ending.outcome(&self.pod, &self.lifecycle))
    }

    async fn run(&mut self, orders: &mut mpsc::Receiver<Order>) -> anyhow::Result<()> {
        let mut pending = VecDeque::from(std::mem::take(&mut self.first));
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
                Some(message) = self.messages.recv() => pending.extend(self.event_of(message)),
                Some(order) = orders.recv() => {
                    self.ending.was_ordered();
                    let (event, noted) = order.into_event();
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
                () = self.clock.wait_until(self.lifecycle.deadline()) => pending.push_back(Event::DeadlineReached),
            }
        }
    }

    /// What a message means to the lifecycle.
    fn event_of(&mut self, message: Message) -> Option<Event> {
        match message {
            Message::Event(event) => Some(event),
            Message::Image { container, image } => {
                let image_id = image.kubernetes_id().to_owned();
                self.report.add_stages(self.images.add(container, *image));
                Some(Event::ImageReady { container, image_id })
            }
            Message::VmmStarted(identity) => {
                self.machine.vmm_started(identity.clone());
                self.keeper.note_vmm(identity);
                None
            }
            Message::MachineStarted(started) => {
                let (event, stages) = self.machine.started(*started)?;
                self.report.add_stages(stages);
                Some(event)
            }
        }
    }

    /// Takes in what happened, and what follows from it at once.
    async fn take(&mut self, event: Event) -> anyhow::Result<()> {
        if self.ending.is_hopeless(&self.pod, &event) {
            // First, so that nothing more is started.
            self.step(Event::KillRequested).await?;
            // The lifecycle still waits for this start; it waits for no image and no machine any more.
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
            let warning = format!("{loss}; the Pod was started again in another one");
            self.report.warn(warning).await;
        }
        self.view.note(&event);
        self.handlers.note(&event);
        self.report.note(&event).await;
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

    /// Carries out what the lifecycle decided. What takes time goes on by itself and reports when it is done.
    async fn carry_out(&mut self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::PullImage { container } => {
                // At the same time, because the first machine cannot start without.
                self.machine.acquire_resources();
                self.images.pull(container).await?;
            }
            Action::StartSandbox => self.machine.start(self.images.for_machine()),
            Action::StopSandbox => {
                self.stop_machine(true).await;
                self.pod.report(Event::SandboxLost {
                    message: "the Pod's virtual machine was turned off".to_owned(),
                });
            }
            Action::StartContainer { attempt } => self.machine.start_container(attempt),
            Action::StopContainer { attempt } => self.machine.stop_container(attempt),
            Action::KillContainer { attempt } => self.machine.kill_container(attempt),
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
            Action::Emit(event) => {
                let field_path = event.container.map(|container| self.pod.field_path(container));
                self.keeper.add(&event, field_path);
            }
        }
        Ok(())
    }

    async fn lose_machine(&mut self) {
        self.machine.discard_lost().await;
        self.forget_machine();
    }

    async fn stop_machine(&mut self, gracefully: bool) {
        self.machine.stop(gracefully).await;
        self.forget_machine();
    }

    /// Removes a machine that has ended from the records.
    fn forget_machine(&mut self) {
        self.keeper.note_vmm(None);
        // There may have been none.
        let _ = std::fs::remove_file(machine_plan::path(&self.pod.paths, &self.pod.record.uid));
    }

    /// Reports that the Pod's disk cannot be written any more. A guest that notices it ends its machine.
    async fn disk_failed(&mut self, error: String) {
        let directory = self.pod.paths.state_dir().display();
        let message = format!("The Pod's scratch disk in {directory} cannot be written: {error}");
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

/// A VMM that was taken over reports nothing: why its machine was lost may still be seen.
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
