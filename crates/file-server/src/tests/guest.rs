//! The guest's end of the socket.

use std::ffi::CString;
use std::fs::File;
use std::io::{IoSliceMut, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::descriptor_paths::DescriptorPaths;
use crate::file_system::{FileSystem, Limits};
use crate::inodes::ROOT;
use crate::protocol::fields::Fields;
use crate::protocol::opcode;
use crate::server::{Server, ServerError, THREADS};
use crate::share::Shares;

pub const LIMITS: Limits = Limits {
    inodes: 1000,
    handles: 100,
    directories: 10,
    lock_owners: 20,
    lock_ranges: 50,
};

/// `FUSE_KERNEL_MINOR_VERSION` and all flags of Linux 6.12.
const MINOR: u32 = 41;
const ALL_FLAGS: u32 = u32::MAX;

/// Integers of a message's body.
pub trait Append {
    fn u32(self, value: u32) -> Self;
    fn u64(self, value: u64) -> Self;
    fn text(self, text: &[u8]) -> Self;
    fn raw(self, bytes: &[u8]) -> Self;
}

impl Append for Vec<u8> {
    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }
    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }
    fn text(self, text: &[u8]) -> Self {
        self.raw(text).raw(b"\0")
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.extend_from_slice(bytes);
        self
    }
}

/// The body of a reply, or the number of an error.
pub type Answer = Result<Vec<u8>, i32>;

/// What the guest was told about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub node: u64,
    pub name_valid_for: u64,
    pub inode: u64,
    pub size: u64,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub device: u32,
    pub is_submount: bool,
}

/// A server and the guest's end of its socket, with shares below a temporary directory.
#[derive(Debug)]
pub struct Guest {
    socket: UnixStream,
    server: Option<Server>,
    file_system: Arc<FileSystem>,
    _ended: PipeReader,
    directory: tempfile::TempDir,
    unique: u64,
    pub uid: u32,
    pub gid: u32,
}

fn path_descriptor(path: &Path) -> OwnedFd {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_PATH);
    options.open(path).unwrap().into()
}

impl Guest {
    /// A guest that has not sent INIT. Its requests are served in their order.
    pub fn unmounted(limits: Limits) -> Self {
        Self::new(limits, 1, false)
    }

    /// A guest that maps users, with a writable share.
    pub fn mapping_users() -> (Self, u64) {
        let mut guest = Self::new(LIMITS, 1, true);
        guest.initialize().unwrap();
        let share = guest.add_share("data", false);
        (guest, share)
    }

    /// A guest with a writable share whose requests are served as those of virtual machines are.
    pub fn with_threads() -> (Self, u64) {
        let mut guest = Self::new(LIMITS, THREADS, false);
        guest.initialize().unwrap();
        let share = guest.add_share("data", false);
        (guest, share)
    }

    fn new(limits: Limits, threads: usize, maps_users: bool) -> Self {
        let (guest, server) = UnixStream::pair().unwrap();
        let (ended, end) = std::io::pipe().unwrap();
        let mut file_system = FileSystem::new(DescriptorPaths::MOUNTED, Shares::new(false), limits);
        if maps_users {
            file_system = file_system.with_mapped_users();
        }
        let file_system = Arc::new(file_system);
        let server = Server::start_with(threads, file_system.clone(), server.into(), end).unwrap();
        // SAFETY: both calls take nothing.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        Self {
            socket: guest,
            server: Some(server),
            file_system,
            _ended: ended,
            directory: tempfile::tempdir().unwrap(),
            unique: 0,
            uid,
            gid,
        }
    }

    /// A guest with a writable share, and the number of its directory.
    pub fn with_share() -> (Self, u64) {
        Self::with_limits(LIMITS)
    }

    pub fn with_limits(limits: Limits) -> (Self, u64) {
        let mut guest = Self::unmounted(limits);
        guest.initialize().unwrap();
        let share = guest.add_share("data", false);
        (guest, share)
    }

    /// A guest whose only share is read-only; the share's directory can be changed through [`Self::path`].
    pub fn with_read_only_share() -> (Self, u64) {
        let mut guest = Self::unmounted(LIMITS);
        guest.initialize().unwrap();
        let share = guest.add_share("data", true);
        (guest, share)
    }

    pub fn initialize(&mut self) -> Answer {
        let body = Vec::new()
            .u32(7)
            .u32(MINOR)
            .u32(1 << 20)
            .u32(ALL_FLAGS)
            .u32(ALL_FLAGS)
            .raw(&[0; 44]);
        self.call(opcode::INIT, 0, &body)
    }

    /// Adds a new directory as a share; returns its number.
    pub fn add_share(&mut self, name: &str, read_only: bool) -> u64 {
        let path = self.directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        self.share(name, &path, read_only)
    }

    /// Adds a directory or file as a share; returns its number.
    pub fn share(&mut self, name: &str, path: &Path, read_only: bool) -> u64 {
        let shares = &self.file_system.shares;
        shares.add(name, path_descriptor(path), read_only).unwrap();
        self.look_up(ROOT, name.as_bytes()).unwrap().node
    }

    pub fn file_system(&self) -> &FileSystem {
        &self.file_system
    }

    /// The host's path of a file in the share `data`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    /// The host's directory with the shares.
    pub fn host(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sends bytes that need not be a request.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends a request without waiting for its reply; returns its number.
    pub fn send(&mut self, opcode: u32, node: u64, body: &[u8]) -> u64 {
        self.unique += 1;
        let request = self.request(opcode, node, body);
        self.send_raw(&request);
        self.unique
    }

    fn request(&self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(40 + body.len()).unwrap();
        let header = Vec::new().u32(length).u32(opcode).u64(self.unique).u64(node);
        header.u32(self.uid).u32(self.gid).u32(1).u32(0).raw(body)
    }

    /// Receives the next reply: its request's number and the answer.
    pub fn receive(&mut self) -> (u64, Answer) {
        let (unique, answer, _) = self.receive_with_descriptor();
        (unique, answer)
    }

    /// Receives the next reply and what is attached to it.
    pub fn receive_with_descriptor(&mut self) -> (u64, Answer, Option<File>) {
        let mut header = [0; 16];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut header)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let mut descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let descriptor = descriptors.next().map(File::from);
        assert!(descriptors.next().is_none());
        drop(descriptors);
        let received = received.unwrap().bytes;
        self.socket.read_exact(&mut header[received..]).unwrap();
        let mut fields = Fields::new(&header);
        let length = usize::try_from(fields.u32().unwrap()).unwrap();
        let error = fields.u32().unwrap().cast_signed();
        let unique = fields.u64().unwrap();
        let mut body = vec![0; length - 16];
        self.socket.read_exact(&mut body).unwrap();
        (unique, if error == 0 { Ok(body) } else { Err(-error) }, descriptor)
    }

    /// Sends a request and waits for its reply.
    pub fn call(&mut self, opcode: u32, node: u64, body: &[u8]) -> Answer {
        let unique = self.send(opcode, node, body);
        let (answered, answer) = self.receive();
        assert_eq!(answered, unique);
        answer
    }

    /// Closes the socket and waits for the server; returns its error.
    pub fn end(mut self) -> Option<ServerError> {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
        self.server.take().and_then(Server::join)
    }

    pub fn look_up(&mut self, parent: u64, name: &[u8]) -> Result<Told, i32> {
        let answer = self.call(opcode::LOOKUP, parent, &Vec::new().text(name));
        answer.map(|body| told(&body))
    }

    pub fn forget(&mut self, node: u64, count: u64) {
        self.send(opcode::FORGET, node, &Vec::new().u64(count));
    }

    /// Opens a file; returns the handle and `FOPEN_*`.
    pub fn open(&mut self, node: u64, flags: i32) -> Result<(u64, u32), i32> {
        let body = Vec::new().u32(flags.cast_unsigned()).u32(0);
        self.call(opcode::OPEN, node, &body).map(|body| opened(&body))
    }

    pub fn release(&mut self, node: u64, handle: u64) -> Answer {
        self.call(opcode::RELEASE, node, &Vec::new().u64(handle).u32(0).u32(0).u64(0))
    }

    /// Creates and opens a file.
    pub fn create(&mut self, parent: u64, name: &[u8], flags: i32, mode: u32) -> Result<(Told, u64), i32> {
        self.create_with(opcode::CREATE, parent, name, flags, (mode, 0))
    }

    pub fn create_with(
        &mut self,
        opcode: u32,
        parent: u64,
        name: &[u8],
        flags: i32,
        (mode, umask): (u32, u32),
    ) -> Result<(Told, u64), i32> {
        let body = Vec::new().u32(flags.cast_unsigned()).u32(mode).u32(umask).u32(0);
        let body = self.call(opcode, parent, &body.text(name))?;
        Ok((told(&body[..128]), opened(&body[128..]).0))
    }

    pub fn make_directory(&mut self, parent: u64, name: &[u8], mode: u32) -> Result<Told, i32> {
        let body = Vec::new().u32(mode).u32(0).text(name);
        self.call(opcode::MKDIR, parent, &body).map(|body| told(&body))
    }

    pub fn read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Answer {
        let body = Vec::new().u64(handle).u64(offset).u32(size).raw(&[0; 20]);
        self.call(opcode::READ, node, &body)
    }

    /// A READ whose reply may have a descriptor attached.
    pub fn read_with_descriptor(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> (Answer, Option<File>) {
        let body = Vec::new().u64(handle).u64(offset).u32(size).raw(&[0; 20]);
        let unique = self.send(opcode::READ, node, &body);
        let (answered, answer, descriptor) = self.receive_with_descriptor();
        assert_eq!(answered, unique);
        (answer, descriptor)
    }

    /// Writes with the flags of the open file; returns the number of bytes.
    pub fn write(&mut self, node: u64, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        self.write_with(node, handle, offset, data, (0, 0))
    }

    pub fn write_with(
        &mut self,
        node: u64,
        handle: u64,
        offset: u64,
        data: &[u8],
        (write_flags, flags): (u32, i32),
    ) -> Result<u32, i32> {
        let length = u32::try_from(data.len()).unwrap();
        let body = Vec::new().u64(handle).u64(offset).u32(length).u32(write_flags);
        let body = body.u64(0).u32(flags.cast_unsigned()).u32(0).raw(data);
        let answer = self.call(opcode::WRITE, node, &body);
        answer.map(|body| Fields::new(&body).u32().unwrap())
    }

    pub fn attributes(&mut self, node: u64) -> Result<Told, i32> {
        let body = self.call(opcode::GETATTR, node, &[0; 16])?;
        Ok(attributes(&mut Fields::new(&body[16..]), node, 0))
    }

    /// SETATTR with `valid` and the fields of its structure that tests use.
    pub fn set_attributes(&mut self, node: u64, request: SetRequest) -> Result<Told, i32> {
        let body = Vec::new()
            .u32(request.valid)
            .u32(0)
            .u64(request.handle)
            .u64(request.size)
            .u64(0);
        let body = body.u64(request.accessed).u64(request.modified).u64(0).raw(&[0; 12]);
        let body = body.u32(request.mode).u32(0).u32(request.uid).u32(request.gid).u32(0);
        let body = self.call(opcode::SETATTR, node, &body)?;
        Ok(attributes(&mut Fields::new(&body[16..]), node, 0))
    }

    pub fn open_directory(&mut self, node: u64) -> Result<u64, i32> {
        let answer = self.call(opcode::OPENDIR, node, &[0; 8]);
        answer.map(|body| opened(&body).0)
    }
}

/// The fields of SETATTR.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetRequest {
    pub valid: u32,
    pub handle: u64,
    pub size: u64,
    pub accessed: u64,
    pub modified: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// `struct fuse_open_out`.
fn opened(body: &[u8]) -> (u64, u32) {
    assert_eq!(body.len(), 16);
    let mut fields = Fields::new(body);
    (fields.u64().unwrap(), fields.u32().unwrap())
}

/// `struct fuse_entry_out`.
pub fn told(body: &[u8]) -> Told {
    assert_eq!(body.len(), 128);
    let mut fields = Fields::new(body);
    let node = fields.u64().unwrap();
    fields.skip(8).unwrap();
    let name_valid_for = fields.u64().unwrap();
    fields.skip(16).unwrap();
    attributes(&mut fields, node, name_valid_for)
}

/// `struct fuse_attr`.
fn attributes(fields: &mut Fields<'_>, node: u64, name_valid_for: u64) -> Told {
    let inode = fields.u64().unwrap();
    let size = fields.u64().unwrap();
    fields.skip(8 + 3 * 8 + 3 * 4).unwrap();
    let mode = fields.u32().unwrap();
    let links = fields.u32().unwrap();
    let uid = fields.u32().unwrap();
    let gid = fields.u32().unwrap();
    let device = fields.u32().unwrap();
    fields.skip(4).unwrap();
    Told {
        node,
        name_valid_for,
        inode,
        size,
        mode,
        links,
        uid,
        gid,
        device,
        is_submount: fields.u32().unwrap() == 1,
    }
}

/// A path as the text of a symbolic link or a name.
pub fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_encoded_bytes()).unwrap()
}
