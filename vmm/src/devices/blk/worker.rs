//! Serves the driver's requests from the disk, straight from and to guest memory.

use std::io;

use super::super::virtio::GuestError;
use super::super::virtio::chain::Chain;
use super::super::virtio::worker::{Active, Backend, Poll};
use super::disk::Disk;
use super::request::{self, Request};

const STATUS_OK: u8 = 0;
const STATUS_IOERR: u8 = 1;
const STATUS_UNSUPP: u8 = 2;

/// Length of the name that `GET_ID` asks for.
const ID_BYTES: usize = 20;

/// The disk's thread.
#[derive(Debug)]
pub struct BlkBackend {
    disk: Disk,
    id: [u8; ID_BYTES],
    /// The first host error was reported; the following would say the same.
    error_reported: bool,
}

impl BlkBackend {
    /// Serves `disk`, the `index`th of the machine.
    #[must_use]
    pub fn new(disk: Disk, index: usize) -> Self {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(format!("microkube-{index}").bytes()) {
            *to = from;
        }
        Self {
            disk,
            id,
            error_reported: false,
        }
    }

    /// Executes a request; the number of bytes written to guest memory.
    fn execute(&mut self, mut chain: Chain<'_>) -> Result<usize, GuestError> {
        let mut status = chain
            .writable
            .split_last_byte()
            .ok_or(GuestError::Request("a block request without status"))?;
        let room = chain.writable.remaining();
        let request = request::parse(&mut chain.readable, room, self.disk.length())?;
        let (result, written) = match request {
            Request::Read(offset) => (self.disk.read(offset, &mut chain.writable), room),
            Request::Write(offset) => (self.disk.write(offset, &mut chain.readable), 0),
            Request::Flush => (self.disk.flush(), 0),
            Request::GetId => {
                let count = chain.writable.write(&self.id);
                (Ok(()), count)
            }
            Request::Discard(ranges) | Request::WriteZeroes(ranges) => (
                ranges
                    .iter()
                    .try_for_each(|(offset, length)| self.disk.punch_hole(*offset, *length)),
                0,
            ),
            Request::Unsupported => (Err(io::ErrorKind::Unsupported.into()), 0),
            Request::Invalid => (Err(io::ErrorKind::InvalidInput.into()), 0),
        };
        let code = match result {
            Ok(()) => STATUS_OK,
            Err(error) if is_unsupported(&error) => STATUS_UNSUPP,
            Err(error) => {
                self.report(&error);
                STATUS_IOERR
            }
        };
        status.write(&[code]);
        Ok(written + 1)
    }

    fn report(&mut self, error: &io::Error) {
        if !self.error_reported && error.kind() != io::ErrorKind::InvalidInput {
            self.error_reported = true;
            self.disk.report_failure(error);
            let id = String::from_utf8_lossy(&self.id);
            eprintln!(
                "microkube-vmm: disk {}: {error} (further errors are not reported)",
                id.trim_end_matches('\0')
            );
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

impl Backend for BlkBackend {
    fn queue_ready(&mut self, index: usize, active: &mut Active, _poll: &Poll) -> Result<(), GuestError> {
        let Some(queue) = active.queues.get_mut(index) else {
            return Ok(());
        };
        loop {
            queue.disable_notification(&active.memory)?;
            while let Some(chain) = queue.pop(&active.memory)? {
                let head = chain.head;
                let written = self.execute(chain)?;
                queue.add_used(&active.memory, head, written)?;
                queue.signal(&active.memory, &active.interrupt)?;
            }
            if !queue.enable_notification(&active.memory)? {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, GuestAddress};

    use super::super::super::virtio::chain::Buffers;
    use super::*;
    use crate::memory::GuestMemory;

    fn file(pattern: u8, length: u64) -> File {
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.write_all_at(&vec![pattern; usize::try_from(length).unwrap()], 0)
            .unwrap();
        file
    }

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
    }

    /// Runs one request with its data at 0x1000, as `kind` wants it; the status.
    fn run(backend: &mut BlkBackend, memory: &GuestMemory, kind: u32, sector: u64, data: usize, to_device: bool) -> u8 {
        memory.write_obj(kind, GuestAddress(0)).unwrap();
        memory.write_obj(sector, GuestAddress(8)).unwrap();
        memory.write_obj(0xeeu8, GuestAddress(0x800)).unwrap();
        let mut chain = Chain {
            head: 0,
            readable: Buffers::default(),
            writable: Buffers::default(),
        };
        chain.readable.push(memory, GuestAddress(0), 16).unwrap();
        let side = if to_device {
            &mut chain.readable
        } else {
            &mut chain.writable
        };
        side.push(memory, GuestAddress(0x1000), data / 2).unwrap();
        side.push(memory, GuestAddress(0x1000 + data as u64 / 2), data - data / 2)
            .unwrap();
        chain.writable.push(memory, GuestAddress(0x800), 1).unwrap();
        backend.execute(chain).unwrap();
        memory.read_obj(GuestAddress(0x800)).unwrap()
    }

    #[test]
    fn a_read_crosses_from_one_segment_into_the_next() {
        let disk = Disk::new(vec![(file(1, 8192), 4096), (file(2, 4096), 4096)], true).unwrap();
        let mut backend = BlkBackend::new(disk, 0);
        let memory = memory();
        assert_eq!(run(&mut backend, &memory, 0, 7, 1024, false), STATUS_OK);
        let mut data = [0u8; 1024];
        memory.read_slice(&mut data, GuestAddress(0x1000)).unwrap();
        assert!(data[..512].iter().all(|byte| *byte == 1) && data[512..].iter().all(|byte| *byte == 2));
        assert_eq!(run(&mut backend, &memory, 0, 15, 1024, false), STATUS_IOERR);
    }

    #[test]
    fn a_write_lands_in_both_segments_and_a_discard_zeroes_it() {
        let (first, second) = (file(0, 4096), file(0, 4096));
        let copies = (first.try_clone().unwrap(), second.try_clone().unwrap());
        let disk = Disk::new(vec![(first, 4096), (second, 4096)], false).unwrap();
        let mut backend = BlkBackend::new(disk, 0);
        let memory = memory();
        memory.write_slice(&[9; 1024], GuestAddress(0x1000)).unwrap();
        assert_eq!(run(&mut backend, &memory, 1, 7, 1024, true), STATUS_OK);
        let mut byte = [0];
        for (copy, offset) in [(&copies.0, 4095), (&copies.1, 0), (&copies.1, 511)] {
            copy.read_exact_at(&mut byte, offset).unwrap();
            assert_eq!(byte, [9]);
        }
        let range = [&0u64.to_le_bytes()[..], &16u32.to_le_bytes(), &[0; 4]].concat();
        memory.write_slice(&range, GuestAddress(0x1000)).unwrap();
        assert_eq!(run(&mut backend, &memory, 11, 0, 16, true), STATUS_OK);
        copies.0.read_exact_at(&mut byte, 4095).unwrap();
        assert_eq!(byte, [0]);
    }

    #[test]
    fn the_first_failure_of_the_host_is_an_event_and_a_guests_mistake_is_none() {
        use std::io::Read;
        let (mut events, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        // A file that cannot be written to stands for a disk without space.
        let path = vmm_sys_util::tempfile::TempFile::new().unwrap();
        path.as_file().set_len(4096).unwrap();
        let read_only = File::open(path.as_path()).unwrap();
        let disk = Disk::new(vec![(read_only, 4096)], false).unwrap();
        let mut backend = BlkBackend::new(disk.reporting_to(Some(writer)), 0);
        assert_eq!(run(&mut backend, &memory(), 1, 1 << 40, 512, true), STATUS_IOERR);
        for _ in 0..3 {
            assert_eq!(run(&mut backend, &memory(), 1, 0, 512, true), STATUS_IOERR);
        }
        drop(backend);
        let mut text = String::new();
        events.read_to_string(&mut text).unwrap();
        let event: crate::config::VmmEvent = serde_json::from_str(text.trim_end()).unwrap();
        assert!(matches!(event, crate::config::VmmEvent::DiskFailed { .. }), "{text}");
    }

    #[test]
    fn a_read_only_disk_cannot_be_changed() {
        let disk = Disk::new(vec![(file(1, 4096), 4096)], true).unwrap();
        let mut backend = BlkBackend::new(disk, 0);
        assert_eq!(run(&mut backend, &memory(), 1, 0, 512, true), STATUS_IOERR);
    }

    #[test]
    fn the_name_and_unknown_requests_are_answered() {
        let mut backend = BlkBackend::new(Disk::new(vec![(file(1, 4096), 4096)], true).unwrap(), 3);
        let memory = memory();
        assert_eq!(run(&mut backend, &memory, 8, 0, 20, false), STATUS_OK);
        assert_eq!(
            memory.read_obj::<[u8; 12]>(GuestAddress(0x1000)).unwrap(),
            *b"microkube-3\0"
        );
        assert_eq!(run(&mut backend, &memory, 77, 0, 512, false), STATUS_UNSUPP);
    }

    #[test]
    fn files_that_make_no_disk_are_refused() {
        use super::super::disk::DiskError;
        assert!(matches!(Disk::new(vec![], true), Err(DiskError::Empty)));
        assert!(matches!(
            Disk::new(vec![(file(0, 4096), 8192)], true),
            Err(DiskError::TooShort { .. })
        ));
        assert!(matches!(
            Disk::new(vec![(file(0, 4096), 512)], true),
            Err(DiskError::Unaligned { .. })
        ));
    }
}
