//! Takes requests from the queues for the file server, and returns them with its replies. Data goes directly from and
//! to guest memory. Some READs are served here, from descriptors that the server has passed.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vmm_sys_util::epoll::EventSet;

use super::super::virtio::GuestError;
use super::super::virtio::turn::Turn;
use super::super::virtio::worker::{Active, Backend, Poll};
use super::request::Request;
use super::server::Server;
use crate::memory::GuestMemory;
use crate::report::report;

const TOKEN_SERVER: u32 = 0;

/// Called once, with the reason, when the file server is lost.
type OnLoss = Box<dyn FnOnce(String) + Send>;

/// The file system device's thread.
pub struct FsBackend {
    /// `None` once the server has ended or broken the protocol. Requests then fail.
    server: Option<Server>,
    on_loss: Option<OnLoss>,
    /// The memory of the requests that are taken; `None` while no driver runs.
    memory: Option<Arc<GuestMemory>>,
}

impl FsBackend {
    /// Passes requests to the file server at the other end of `socket`.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            server: Some(Server::new(socket)?),
            on_loss: None,
            memory: None,
        })
    }

    /// Returns the same backend, which calls `on_loss` when the file server is lost.
    #[must_use]
    pub fn on_loss(self, on_loss: impl FnOnce(String) + Send + 'static) -> Self {
        Self {
            on_loss: Some(Box::new(on_loss)),
            ..self
        }
    }

    /// The number of requests that wait for their reply; `None` if the server is lost.
    #[cfg(any(test, fuzzing))]
    pub(super) fn in_flight(&self) -> Option<usize> {
        self.server.as_ref().map(Server::in_flight)
    }

    /// How many requests the server has been given; `None` if it is lost.
    #[cfg(any(test, fuzzing))]
    pub(super) fn submitted(&self) -> Option<u64> {
        self.server.as_ref().map(Server::submitted)
    }

    /// The files that the server has passed.
    #[cfg(any(test, fuzzing))]
    pub(super) fn files(&mut self) -> Option<&mut super::open_files::OpenFiles> {
        self.server.as_mut().map(Server::files)
    }

    /// Receives replies while there are any.
    fn receive(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let mut turn = Turn::new(poll);
        while let Some(server) = self.server.as_mut().filter(|server| server.may_receive()) {
            if !turn.may_continue() {
                break;
            }
            match server.receive() {
                Ok(progress) => {
                    turn.spend(0, progress.bytes);
                    if let Some(finished) = progress.finished {
                        finished.give_back(&mut active.queues)?;
                    }
                }
                Err(error) => self.lose_server(&error, active)?,
            }
        }
        Ok(())
    }

    /// Sends requests while the queues have any and the server accepts them.
    fn send(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let mut turn = Turn::new(poll);
        loop {
            if let Some(server) = self.server.as_mut().filter(|server| server.is_sending()) {
                if !server.may_send() || !turn.may_continue() {
                    return Ok(());
                }
                match server.send() {
                    Ok(progress) => {
                        turn.spend(0, progress.bytes);
                        if let Some(finished) = progress.finished {
                            finished.give_back(&mut active.queues)?;
                        }
                    }
                    Err(error) => self.lose_server(&error, active)?,
                }
                continue;
            }
            let has_room = self.server.as_ref().is_none_or(Server::has_room);
            if !has_room || !turn.may_continue() {
                return Ok(());
            }
            let Some((request, descriptors)) = self.next_request(active)? else {
                return Ok(());
            };
            turn.spend(descriptors, 0);
            match &mut self.server {
                _ if !request.is_valid() => request.fail(libc::EIO).give_back(&mut active.queues)?,
                None => request.fail(libc::ENOTCONN).give_back(&mut active.queues)?,
                Some(server) => {
                    let progress = server.submit(request);
                    turn.spend(0, progress.bytes);
                    if let Some(finished) = progress.finished {
                        finished.give_back(&mut active.queues)?;
                    }
                }
            }
        }
    }

    /// The next request, and the number of its descriptors. Those of high priority come first.
    fn next_request(&self, active: &mut Active) -> Result<Option<(Request, usize)>, GuestError> {
        let Some(memory) = &self.memory else { return Ok(None) };
        for (index, queue) in active.queues.iter_mut().enumerate() {
            let mut request = Request::take_from(index, queue, memory)?;
            if request.is_none() && queue.enable_notification(memory)? {
                request = Request::take_from(index, queue, memory)?;
            }
            if request.is_some() {
                return Ok(request);
            }
        }
        Ok(None)
    }

    /// Fails all requests of a server that has ended or broken the protocol.
    fn lose_server(&mut self, error: &io::Error, active: &mut Active) -> Result<(), GuestError> {
        let Some(server) = self.server.take() else {
            return Ok(());
        };
        let reason = match error.kind() {
            io::ErrorKind::UnexpectedEof => "the file server has ended".to_owned(),
            _ => format!("lost the file server: {error}"),
        };
        report(format_args!("{reason}"));
        if let Some(on_loss) = self.on_loss.take() {
            on_loss(reason);
        }
        for request in server.into_requests() {
            request.fail(libc::EIO).give_back(&mut active.queues)?;
        }
        Ok(())
    }

    /// Receives first, because a reply makes room for a request.
    fn exchange(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        self.receive(active, poll)?;
        self.send(active, poll)?;
        let mut queues = active.queues.iter_mut();
        queues.try_for_each(|queue| queue.signal(&active.memory, &active.interrupt))
    }
}

impl fmt::Debug for FsBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsBackend")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Backend for FsBackend {
    fn start(&mut self, poll: &Poll) -> io::Result<()> {
        let events = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
        match &self.server {
            Some(server) => poll.add(server.fd(), events, TOKEN_SERVER),
            None => Ok(()),
        }
    }

    fn activate(&mut self, active: &mut Active, _poll: &Poll) -> Result<(), GuestError> {
        self.memory = Some(Arc::new(active.memory.clone()));
        if let Some(server) = &mut self.server {
            server.assume_ready();
        }
        Ok(())
    }

    fn queue_ready(&mut self, _index: usize, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        self.exchange(active, poll)
    }

    fn host_ready(
        &mut self,
        _token: u32,
        events: EventSet,
        active: Option<&mut Active>,
        poll: &Poll,
    ) -> Result<(), GuestError> {
        if let Some(server) = &mut self.server {
            server.note(events);
        }
        match active {
            Some(active) => self.exchange(active, poll),
            None => Ok(()),
        }
    }

    fn reset(&mut self, _poll: &Poll) {
        self.memory = None;
        if let Some(server) = &mut self.server {
            server.forget_driver();
        }
    }
}
