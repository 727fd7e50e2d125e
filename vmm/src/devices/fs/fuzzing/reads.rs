//! READs of files whose descriptors the server passes: what the device reads itself is what is in one of them.

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::super::virtio::driver::WRITE;
use super::super::driver::{RELEASE, REQUESTS, read_request, reply, request_header};
use super::super::message::{REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES, ReplyHeader};
use super::super::open_files::MAX_FILES;
use super::files::LENGTHS;
use super::input::Input;
use super::{Attack, FILE_REPLY, FILE_REQUEST, MAX_FILE_READ, OTHER_DATA};

const NODE: u64 = 5;

impl Attack {
    /// The server answers a READ, or another request, and attaches the file.
    pub(super) fn pass_file(&mut self, input: &mut Input<'_>) {
        let [choice, kind] = [(); 2].map(|()| input.byte());
        let reads = &self.files.reads;
        let place = reads.len().checked_sub(1 + usize::from(choice));
        let (tag, handle) = place.map_or_else(
            || {
                (
                    self.tags.last().copied().unwrap_or(0),
                    usize::from(choice) % LENGTHS.len(),
                )
            },
            |place| reads[place],
        );
        let error = if kind & 8 == 0 { 0 } else { -libc::EACCES };
        let message = reply(tag, error, &vec![OTHER_DATA; usize::from(kind & 7)]);
        // What was sent before comes first.
        let written = std::io::Write::write(&mut self.fs.server.stream, &self.outgoing).unwrap_or(0);
        self.outgoing.drain(..written);
        if !self.outgoing.is_empty() {
            return;
        }
        let mut descriptors = vec![self.files.descriptor(handle)];
        if kind >> 4 == 15 {
            descriptors.push(self.files.descriptor((handle + 1) % LENGTHS.len()));
        }
        let sent = self.fs.server.stream.send_with_fds(&[&message[..]], &descriptors);
        self.send(&message[sent.unwrap_or(message.len())..]);
    }

    /// A file of the server becomes shorter.
    pub(super) fn truncate_file(&mut self, input: &mut Input<'_>) {
        let (handle, length) = (usize::from(input.byte()) % LENGTHS.len(), usize::from(input.short()));
        self.files.truncate(handle, length);
    }

    pub(super) fn release_file(&mut self, input: &mut Input<'_>) {
        let header = request_header(REQUEST_HEADER_BYTES + 24, RELEASE, 1);
        self.write(FILE_REQUEST, &header);
        let handle = u64::from(input.byte() % 5).to_le_bytes();
        self.write(FILE_REQUEST + REQUEST_HEADER_BYTES as u64, &handle);
        self.offer(REQUESTS, &[(FILE_REQUEST, 64, 0), (FILE_REPLY, 16, WRITE)]);
    }

    /// A READ as Linux sends it, in its own place. If it reached no server, the data is checked.
    pub(super) fn read_file(&mut self, input: &mut Input<'_>) {
        let (handle, offset, size) = (u64::from(input.byte() % 5), input.short(), input.short());
        let size = usize::from(size) % (MAX_FILE_READ + 1);
        let (header, body) = read_request(NODE, handle, offset.into(), u32::try_from(size).unwrap(), 1);
        self.write(FILE_REQUEST, &[&header[..], &body].concat());
        let room = u32::try_from(REPLY_HEADER_BYTES + size).unwrap();
        let before = self.chains.len();
        self.offer(REQUESTS, &[(FILE_REQUEST, 80, 0), (FILE_REPLY, room, WRITE)]);
        let start = usize::try_from(FILE_REPLY).unwrap();
        let mut others = self.chains[..before].iter().filter(|chain| chain.outstanding > 0);
        let is_alone = others.all(|chain| {
            let mut places = chain.writable.iter();
            places.all(|(at, length)| at + length <= start || *length == 0)
        });
        let submitted = self.fs.backend.submitted();
        let returned = self.run(true);
        assert!(self.fs.backend.files().is_none_or(|files| files.count() <= MAX_FILES));
        let returned = returned.iter().find(|returned| returned.chain == before);
        let Some(returned) = returned.filter(|_| is_alone && self.rings_are_intact && self.running) else {
            return;
        };
        if submitted.is_none() || self.fs.backend.submitted() != submitted {
            return;
        }
        let mut bytes = vec![0; returned.written];
        let memory = &self.fs.driver.memory;
        memory.read_slice(&mut bytes, GuestAddress(FILE_REPLY)).unwrap();
        let data = bytes.split_off(REPLY_HEADER_BYTES);
        let header = ReplyHeader::parse(bytes.try_into().unwrap());
        assert_eq!((header.length, header.error, header.unique), (returned.written, 0, 1));
        assert!(
            self.files.may_have(offset.into(), size, &data),
            "the device read something else"
        );
    }
}
