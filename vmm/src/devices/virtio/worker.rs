//! The thread of a device: waits for the driver, the host and the transport, and calls the device.
//!
//! Each device has a thread, which lives as long as the VM. A slow disk therefore delays no other device, and no thread
//! starts after the process is jailed.

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::GuestError;
use super::interrupt::Interrupt;
use super::queue::VirtQueue;
use crate::causes::with_causes;
use crate::memory::GuestMemory;
use crate::report::report;

const STACK_BYTES: usize = 256 << 10;
/// Maximum number of broken rules that are reported for each device.
const MAX_REPORTS: u32 = 8;

/// The resources of a device while its driver is running.
#[derive(Debug)]
pub struct Active {
    pub memory: GuestMemory,
    /// In the order of the device's section of the specification.
    pub queues: Vec<VirtQueue>,
    pub interrupt: Arc<Interrupt>,
    /// Negotiated features.
    pub features: u64,
}

/// The part of a device that runs in its own thread.
pub trait Backend: Send + 'static {
    /// Registers host descriptors, with tokens of the device's choice.
    fn start(&mut self, _poll: &Poll) -> io::Result<()> {
        Ok(())
    }
    /// The driver has finished its setup.
    fn activate(&mut self, _active: &mut Active, _poll: &Poll) -> Result<(), GuestError> {
        Ok(())
    }
    /// The driver notified queue `index`, or may have done so.
    fn queue_ready(&mut self, index: usize, active: &mut Active, poll: &Poll) -> Result<(), GuestError>;
    /// A descriptor registered with `token` is ready. `active` is `None` while no driver runs.
    fn host_ready(
        &mut self,
        _token: u32,
        _events: EventSet,
        _active: Option<&mut Active>,
        _poll: &Poll,
    ) -> Result<(), GuestError> {
        Ok(())
    }
    /// The driver reset the device.
    fn reset(&mut self, _poll: &Poll) {}
    /// The VM ends: completes everything that was reported to the guest as done.
    fn stop(&mut self, _active: Option<&mut Active>, _poll: &Poll) {}
}

/// The device's epoll instance.
#[derive(Debug)]
pub struct Poll {
    epoll: Epoll,
    /// The device stopped before its work was done.
    again: Cell<bool>,
    /// The transport is waiting for the device's thread.
    command_waits: Arc<AtomicBool>,
}

/// High half of an epoll token: its owner.
const OWNER_CONTROL: u64 = 0;
const OWNER_QUEUE: u64 = 1;
const OWNER_HOST: u64 = 2;

fn token(owner: u64, token: u32) -> u64 {
    (owner << 32) | u64::from(token)
}

impl Poll {
    /// An instance that watches nothing yet.
    pub(in super::super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
            again: Cell::new(false),
            command_waits: Arc::default(),
        })
    }

    /// Whether the transport is waiting for this thread, to reset the device or to end it. Long work must then stop
    /// early.
    #[must_use]
    pub fn command_waits(&self) -> bool {
        self.command_waits.load(Ordering::Acquire)
    }

    /// Simulates a waiting command.
    #[cfg(test)]
    pub(in super::super) fn set_command_waits(&self) {
        self.command_waits.store(true, Ordering::Release);
    }

    /// Whether the device has asked for another turn since the last call.
    #[cfg(any(test, fuzzing))]
    pub(in super::super) fn takes_another_turn(&self) -> bool {
        self.again.replace(false)
    }

    /// Requests another turn for the device. Other events come first; then all of its queues are reported again.
    pub fn run_again(&self) {
        self.again.set(true);
    }

    /// Watches a host descriptor.
    pub fn add(&self, fd: RawFd, events: EventSet, number: u32) -> io::Result<()> {
        self.epoll.ctl(
            ControlOperation::Add,
            fd,
            EpollEvent::new(events, token(OWNER_HOST, number)),
        )
    }
}

enum Command {
    Activate(Box<Active>),
    Reset(SyncSender<()>),
    Stop,
}

/// A handle to a device's thread, for the transport and the VM.
#[derive(Debug)]
pub struct Worker {
    commands: Sender<Command>,
    command_waits: Arc<AtomicBool>,
    wake: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Activate(_) => "Activate",
            Self::Reset(_) => "Reset",
            Self::Stop => "Stop",
        })
    }
}

impl Worker {
    /// Starts a device's thread; `enter` runs in it first. `notifiers` are the eventfds of the device's queues.
    pub fn start(
        name: &str,
        mut backend: impl Backend,
        notifiers: Vec<EventFd>,
        enter: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (commands, received) = channel();
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let poll = Poll::new()?;
        let control = wake.try_clone()?;
        let watch = |fd: &EventFd, data| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(fd);
            poll.epoll
                .ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, data))
        };
        watch(&control, token(OWNER_CONTROL, 0))?;
        for (index, notifier) in (0u32..).zip(&notifiers) {
            watch(notifier, token(OWNER_QUEUE, index))?;
        }
        backend.start(&poll)?;
        let command_waits = Arc::clone(&poll.command_waits);
        let name = name.to_owned();
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                enter();
                Loop {
                    name,
                    reports_left: MAX_REPORTS,
                    backend,
                    poll,
                    control,
                    notifiers,
                    received,
                    active: None,
                }
                .run();
            })?;
        Ok(Self {
            commands,
            command_waits,
            wake,
            thread: Some(thread),
        })
    }

    fn send(&self, command: Command) {
        // The thread ends only after Stop, so this cannot fail earlier.
        if self.commands.send(command).is_ok() {
            self.command_waits.store(true, Ordering::Release);
            let _ = self.wake.write(1);
        }
    }

    /// Tells the thread that the driver has finished its setup.
    pub fn activate(&self, active: Active) {
        self.send(Command::Activate(Box::new(active)));
    }

    /// Resets the device. Returns when the device no longer touches guest memory.
    pub fn reset(&self) {
        let (done, wait) = sync_channel(1);
        self.send(Command::Reset(done));
        let _ = wait.recv();
    }

    /// Asks the thread to end after flushing everything; [`Self::join`] waits for it.
    pub fn request_stop(&self) {
        self.send(Command::Stop);
    }

    /// Waits until the thread has ended.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop<B> {
    name: String,
    /// A guest may break rules any number of times, but must not fill the log.
    reports_left: u32,
    backend: B,
    poll: Poll,
    control: EventFd,
    notifiers: Vec<EventFd>,
    received: Receiver<Command>,
    active: Option<Box<Active>>,
}

impl<B: Backend> Loop<B> {
    fn run(&mut self) {
        let mut events = [EpollEvent::default(); 64];
        loop {
            let again = self.poll.again.replace(false);
            let count = match self.poll.epoll.wait(if again { 0 } else { -1 }, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.poll.again.set(again);
                    continue;
                }
                // Apart from that, epoll_wait fails only if an argument is wrong. The guest notices that
                // the device does nothing.
                Err(_) => return,
            };
            for event in events.iter().take(count) {
                // Checked between any two events, because a thousand sockets may be ready, each with much to do.
                if self.poll.command_waits() && !self.run_commands() {
                    return;
                }
                let number = u32::try_from(event.data() & u64::from(u32::MAX)).unwrap_or(0);
                match event.data() >> 32 {
                    OWNER_CONTROL => {
                        let _ = self.control.read();
                        if !self.run_commands() {
                            return;
                        }
                    }
                    OWNER_QUEUE => self.queue_ready(number as usize),
                    _ => {
                        let result =
                            self.backend
                                .host_ready(number, event.event_set(), self.active.as_deref_mut(), &self.poll);
                        self.stop_on_guest_error(result);
                    }
                }
            }
            if again {
                for index in 0..self.notifiers.len() {
                    if self.poll.command_waits() && !self.run_commands() {
                        return;
                    }
                    self.queue_ready(index);
                }
            }
        }
    }

    /// Runs the transport's commands; `false` ends the thread.
    fn run_commands(&mut self) -> bool {
        // Cleared before the commands are taken: a command that comes in between sets it again, and
        // wakes the thread once more.
        self.poll.command_waits.store(false, Ordering::Release);
        while let Ok(command) = self.received.try_recv() {
            match command {
                Command::Activate(active) => {
                    let active = self.active.insert(active);
                    let result = self.backend.activate(active, &self.poll);
                    self.stop_on_guest_error(result);
                    for index in 0..self.notifiers.len() {
                        self.queue_ready(index);
                    }
                }
                Command::Reset(done) => {
                    self.active = None;
                    self.backend.reset(&self.poll);
                    let _ = done.send(());
                }
                Command::Stop => {
                    self.backend.stop(self.active.as_deref_mut(), &self.poll);
                    return false;
                }
            }
        }
        true
    }

    fn queue_ready(&mut self, index: usize) {
        if let Some(notifier) = self.notifiers.get(index) {
            let _ = notifier.read();
        }
        if let Some(active) = self.active.as_deref_mut() {
            let result = self.backend.queue_ready(index, active, &self.poll);
            self.stop_on_guest_error(result);
        }
    }

    /// A device whose guest breaks the rules stops until the guest resets it.
    fn stop_on_guest_error(&mut self, result: Result<(), GuestError>) {
        if let Err(error) = result {
            if let Some(active) = self.active.take() {
                active.interrupt.signal_needs_reset();
            }
            self.backend.reset(&self.poll);
            if self.reports_left > 0 {
                self.reports_left -= 1;
                report(format_args!(
                    "the guest violated the protocol of device {}: {}",
                    self.name,
                    with_causes(&error)
                ));
            }
        }
    }
}
