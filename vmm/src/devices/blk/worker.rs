//! Serves the driver's requests, moving data directly between the disk and guest memory.

use std::io;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP};
use vmm_sys_util::epoll::EventSet;

use super::super::virtio::GuestError;
use super::super::virtio::chain::Chain;
use super::super::virtio::turn::Turn;
use super::super::virtio::worker::{Active, Backend, Poll};
use super::disk::Disk;
use super::growth::NewSegments;
use super::request::{self, BlockRequest};
use crate::report::report;

const STATUS_OK: u8 = status(VIRTIO_BLK_S_OK);
const STATUS_IOERR: u8 = status(VIRTIO_BLK_S_IOERR);
const STATUS_UNSUPP: u8 = status(VIRTIO_BLK_S_UNSUPP);

/// Length of the name that `GET_ID` asks for.
const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;

/// A status as the byte in guest memory.
const fn status(value: u32) -> u8 {
    let [status, 0, 0, 0] = value.to_le_bytes() else {
        panic!("a status has one byte")
    };
    status
}

/// Token of new segments.
const TOKEN_GROWTH: u32 = 0;

/// The disk's thread.
#[derive(Debug)]
pub struct BlkBackend {
    disk: Disk,
    /// Segments to append, if the disk can grow.
    growth: Option<NewSegments>,
    id: [u8; ID_BYTES],
    /// Whether a host error has been reported. Later errors are not reported, because they would be the same.
    error_reported: bool,
}

impl BlkBackend {
    /// Serves `disk`, the VM's disk number `index`.
    #[must_use]
    pub fn new(disk: Disk, index: usize) -> Self {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(format!("microkube-{index}").bytes()) {
            *to = from;
        }
        Self {
            disk,
            growth: None,
            id,
            error_reported: false,
        }
    }

    /// Lets the disk grow by these segments.
    #[must_use]
    pub fn growing(self, segments: NewSegments) -> Self {
        Self {
            growth: Some(segments),
            ..self
        }
    }

    /// Executes a request and returns the number of bytes written to guest memory. `None` if the transport is waiting:
    /// the request may be repeated from its start, and after a reset of the device the driver does not wait for it.
    fn execute(&mut self, mut chain: Chain<'_>, poll: &Poll) -> Result<Option<usize>, GuestError> {
        let mut status = chain
            .writable
            .split_last_byte()
            .ok_or(GuestError::Request("a block request without status"))?;
        let room = chain.writable.remaining();
        let request = request::parse(&mut chain.readable, room, self.disk.length())?;
        let broken_off = || poll.command_waits();
        let (result, written) = match request {
            BlockRequest::Read(offset) => (self.disk.read(offset, &mut chain.writable, &broken_off), room),
            BlockRequest::Write(offset) => (self.disk.write(offset, &mut chain.readable, &broken_off), 0),
            BlockRequest::Flush => (self.disk.flush().map(|()| true), 0),
            BlockRequest::GetId => {
                let count = chain.writable.write(&self.id);
                (Ok(true), count)
            }
            BlockRequest::Discard(ranges) | BlockRequest::WriteZeroes(ranges) => {
                let mut ranges = ranges.iter();
                let all = ranges.try_fold(true, |all, (offset, length)| {
                    Ok(all && self.disk.punch_hole(*offset, *length, &broken_off)?)
                });
                (all, 0)
            }
            BlockRequest::Unsupported => (Err(io::ErrorKind::Unsupported.into()), 0),
            BlockRequest::Invalid => (Err(io::ErrorKind::InvalidInput.into()), 0),
        };
        let code = match result {
            Ok(true) => STATUS_OK,
            Ok(false) => return Ok(None),
            Err(error) if is_unsupported(&error) => STATUS_UNSUPP,
            Err(error) => {
                self.report(&error);
                STATUS_IOERR
            }
        };
        status.write(&[code]);
        Ok(Some(written + 1))
    }

    fn report(&mut self, error: &io::Error) {
        if !self.error_reported && error.kind() != io::ErrorKind::InvalidInput {
            self.error_reported = true;
            self.disk.report_failure(error);
            let id = String::from_utf8_lossy(&self.id);
            report(format_args!(
                "disk {}: {error} (further errors are not reported)",
                id.trim_end_matches('\0')
            ));
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

impl Backend for BlkBackend {
    fn start(&mut self, poll: &Poll) -> io::Result<()> {
        match &self.growth {
            Some(segments) => poll.add(segments.wake_fd(), EventSet::IN, TOKEN_GROWTH),
            None => Ok(()),
        }
    }

    fn host_ready(
        &mut self,
        _token: u32,
        _events: EventSet,
        active: Option<&mut Active>,
        _poll: &Poll,
    ) -> Result<(), GuestError> {
        let Some(segments) = &self.growth else { return Ok(()) };
        let mut has_grown = false;
        while let Some((file, length)) = segments.next() {
            match self.disk.append(file, length) {
                Ok(()) => has_grown = true,
                Err(error) => report(format_args!("cannot grow a disk: {error}")),
            }
        }
        if let Some(active) = active.filter(|_| has_grown) {
            active.interrupt.signal_config_changed();
        }
        Ok(())
    }

    fn queue_ready(&mut self, index: usize, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let Some(queue) = active.queues.get_mut(index) else {
            return Ok(());
        };
        queue.disable_notification(&active.memory)?;
        let mut turn = Turn::new(poll);
        while turn.may_continue() {
            let Some(chain) = queue.pop(&active.memory)? else {
                if queue.enable_notification(&active.memory)? {
                    queue.disable_notification(&active.memory)?;
                    continue;
                }
                break;
            };
            let (head, descriptors) = (chain.head, chain.descriptors);
            let bytes = chain.readable.remaining().saturating_add(chain.writable.remaining());
            let Some(written) = self.execute(chain, poll)? else {
                queue.undo_pop();
                continue;
            };
            turn.spend(descriptors, bytes);
            queue.add_used(&active.memory, head, written)?;
            queue.signal(&active.memory, &active.interrupt)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use vm_memory::{Bytes, GuestAddress};
    use vmm_sys_util::eventfd::EventFd;

    use super::super::super::virtio::chain::Buffers;
    use super::super::super::virtio::driver::{Driver, FREE, WRITE};
    use super::super::super::virtio::interrupt;
    use super::super::super::virtio::mmio::Identity;
    use super::super::super::virtio::worker::Worker;
    use super::super::device::BlkIdentity;
    use super::super::disk::PART_BYTES;
    use super::super::growth;
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

    /// Runs one request of type `kind` with its data at 0x1000 and returns the status.
    fn run(backend: &mut BlkBackend, memory: &GuestMemory, kind: u32, sector: u64, data: usize, to_device: bool) -> u8 {
        memory.write_obj(kind, GuestAddress(0)).unwrap();
        memory.write_obj(sector, GuestAddress(8)).unwrap();
        memory.write_obj(0xeeu8, GuestAddress(0x800)).unwrap();
        let mut chain = Chain {
            head: 0,
            descriptors: 4,
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
        backend.execute(chain, &Poll::new().unwrap()).unwrap();
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
    fn only_the_first_host_failure_is_an_event_and_guest_errors_are_not() {
        use std::io::Read;
        let (mut events, writer) = io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        // A file that cannot be written to stands for a disk without free space.
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
    fn a_growing_disk_shows_its_new_size_and_its_new_segment() {
        let disk = Disk::new(vec![(file(1, 4096), 4096)], true).unwrap();
        let identity = BlkIdentity::new(&disk);
        let (growth, segments) = growth::pair().unwrap();
        let mut backend = BlkBackend::new(disk, 1).growing(segments);
        let (memory, driver) = (memory(), Driver::new(0x2_0000, 1, QUEUE));
        let (mut active, poll) = (driver.active(0), Poll::new().unwrap());
        backend.start(&poll).unwrap();
        let capacity = || {
            let mut bytes = [0; 8];
            identity.read_config(0, &mut bytes);
            (u64::from_le_bytes(bytes), identity.config_generation())
        };
        assert_eq!(capacity(), (8, 0));
        assert_eq!(run(&mut backend, &memory, 0, 8, 512, false), STATUS_IOERR);
        growth.append(file(2, 8192), 8192);
        growth.append(file(3, 4096), 512);
        backend
            .host_ready(TOKEN_GROWTH, EventSet::IN, Some(&mut active), &poll)
            .unwrap();
        assert_eq!(capacity(), (24, 1), "the second segment has an invalid length");
        assert_eq!(active.interrupt.status(), interrupt::CONFIG);
        assert_eq!(run(&mut backend, &memory, 0, 23, 512, false), STATUS_OK);
        let mut data = [0u8; 512];
        memory.read_slice(&mut data, GuestAddress(0x1000)).unwrap();
        assert_eq!(data, [2; 512]);
        let mut size = [0xee; 2];
        identity.read_config(usize::MAX, &mut size);
        assert_eq!(size, [0xee; 2], "beyond the configuration space");
    }

    #[test]
    fn a_disk_does_not_grow_beyond_its_maximum_size() {
        let mut disk = Disk::new(vec![(file(1, 4096), 4096)], true).unwrap();
        for length in [0, 512, !4095, i64::MAX.cast_unsigned() & !4095] {
            assert!(disk.append(file(2, 4096), length).is_err(), "{length}");
        }
        assert_eq!((disk.length(), disk.size().changes()), (4096, 0));
    }

    #[test]
    fn a_read_only_disk_cannot_be_changed() {
        let disk = Disk::new(vec![(file(1, 4096), 4096)], true).unwrap();
        let mut backend = BlkBackend::new(disk, 0);
        assert_eq!(run(&mut backend, &memory(), 1, 0, 512, true), STATUS_IOERR);
    }

    #[test]
    fn get_id_and_unknown_requests_are_answered() {
        let mut backend = BlkBackend::new(Disk::new(vec![(file(1, 4096), 4096)], true).unwrap(), 3);
        let memory = memory();
        assert_eq!(run(&mut backend, &memory, 8, 0, 20, false), STATUS_OK);
        assert_eq!(
            memory.read_obj::<[u8; 12]>(GuestAddress(0x1000)).unwrap(),
            *b"microkube-3\0"
        );
        assert_eq!(run(&mut backend, &memory, 77, 0, 512, false), STATUS_UNSUPP);
    }

    const QUEUE: u16 = 256;
    /// Addresses of a request's header, status and data.
    const HEADER: u64 = FREE;
    const STATUS: u64 = FREE + 0x100;
    const DATA: u64 = FREE + 0x1000;

    /// A disk of zeros.
    fn empty_disk(length: u64) -> Disk {
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.set_len(length).unwrap();
        Disk::new(vec![(file, length)], false).unwrap()
    }

    /// A ring that fills itself: requests read from the disk the ring entries that make more requests available,
    /// endlessly.
    fn self_feeding() -> (Driver, BlkBackend) {
        const STEP: u16 = QUEUE / 2;
        let mut driver = Driver::new(0x2_0000, 1, QUEUE);
        // Each sector holds the index of the available ring and the header of the request that reads the next one.
        let sectors = u32::from(u16::MAX) / u32::from(STEP) + 1;
        let mut content = Vec::new();
        for sector in 0..sectors {
            let available = u16::try_from((sector + 2) * u32::from(STEP) % 0x1_0000).unwrap();
            let next = u64::from((sector + 1) % sectors);
            let mut bytes = [&[0; 2], &available.to_le_bytes()[..], &[0; 8], &next.to_le_bytes()].concat();
            bytes.resize(512, 0);
            content.extend_from_slice(&bytes);
        }
        let disk = file(0, content.len() as u64);
        disk.write_all_at(&content, 0).unwrap();
        let backend = BlkBackend::new(Disk::new(vec![(disk, content.len() as u64)], true).unwrap(), 0);
        let feeding = driver.chain(
            0,
            &[
                (HEADER, 16, 0),
                (Driver::available_ring(0), 4, WRITE),
                (HEADER, 16, WRITE),
                (DATA, 492, WRITE),
                (STATUS, 1, WRITE),
            ],
        );
        let idle = driver.chain(0, &[(HEADER + 0x40, 16, 0), (STATUS, 1, WRITE)]);
        driver.memory.write_obj(4u32, GuestAddress(HEADER + 0x40)).unwrap();
        for place in 0..QUEUE {
            driver.put(0, place, if place % STEP == 0 { feeding } else { idle });
        }
        driver.set_available(0, 1);
        (driver, backend)
    }

    #[test]
    fn a_self_filling_ring_is_processed_in_limited_turns() {
        let (driver, mut backend) = self_feeding();
        let (mut active, poll) = (driver.active(0), Poll::new().unwrap());
        for turn in 1..=300u32 {
            backend.queue_ready(0, &mut active, &poll).unwrap();
            assert!(poll.takes_another_turn());
            assert_eq!(u32::from(driver.used(0)), turn * u32::from(QUEUE) % 0x1_0000);
        }
    }

    #[test]
    fn a_device_kept_busy_by_a_ring_can_be_reset_and_stopped() {
        let (driver, backend) = self_feeding();
        let notifier = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let mut worker = Worker::start("test", backend, vec![notifier.try_clone().unwrap()], || {}).unwrap();
        let keep_busy = |worker: &Worker| {
            driver.set_available(0, 1);
            driver.memory.write_obj(0u64, GuestAddress(HEADER + 8)).unwrap();
            driver
                .memory
                .write_obj(0u16, GuestAddress(Driver::used_ring(0) + 2))
                .unwrap();
            worker.activate(driver.active(0));
            while driver.used(0) < 1000 {
                std::thread::yield_now();
            }
        };
        keep_busy(&worker);
        worker.reset();
        keep_busy(&worker);
        worker.request_stop();
        worker.join();
    }

    #[test]
    fn huge_requests_are_processed_one_per_turn() {
        let mut driver = Driver::new(2 << 20, 1, QUEUE);
        let mut backend = BlkBackend::new(empty_disk(64 << 20), 0);
        let mut descriptors = vec![(HEADER, 16, 0)];
        descriptors.extend([(DATA, 1 << 20, WRITE); 63]);
        descriptors.push((STATUS, 1, WRITE));
        let head = driver.chain(0, &descriptors);
        for _ in 0..QUEUE {
            driver.offer_again(0, head);
        }
        let (mut active, poll) = (driver.active(0), Poll::new().unwrap());
        for turn in 1..4 {
            backend.queue_ready(0, &mut active, &poll).unwrap();
            assert!(poll.takes_another_turn());
            assert_eq!(driver.used(0), turn);
        }
        assert_eq!(driver.used_entry(0, 0), (head, (63 << 20) + 1));
    }

    #[test]
    fn a_huge_request_is_interrupted_when_a_transport_command_waits() {
        use std::cell::Cell;
        let (driver, disk) = (Driver::new(2 << 20, 1, QUEUE), empty_disk(64 << 20));
        let mut buffers = Buffers::default();
        for _ in 0..63 {
            buffers.push(&driver.memory, GuestAddress(DATA), 1 << 20).unwrap();
        }
        let asked = Cell::new(0u64);
        let whole = 63u64 << 20;
        let broken_off = || asked.replace(asked.get() + 1) == 3;
        assert!(!disk.read(0, &mut buffers.clone(), &broken_off).unwrap());
        asked.set(4);
        assert!(disk.read(0, &mut buffers.clone(), &broken_off).unwrap());
        assert_eq!(asked.get() - 4, whole.div_ceil(PART_BYTES));
    }

    #[test]
    fn an_interrupted_request_is_completed_when_the_device_resumes() {
        let mut driver = Driver::new(0x2_0000, 1, QUEUE);
        let mut backend = BlkBackend::new(empty_disk(4096), 0);
        driver.offer(0, &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
        let (mut active, poll) = (driver.active(0), Poll::new().unwrap());
        poll.set_command_waits();
        backend.queue_ready(0, &mut active, &poll).unwrap();
        assert!(poll.takes_another_turn() && driver.used(0) == 0);
        let poll = Poll::new().unwrap();
        backend.queue_ready(0, &mut active, &poll).unwrap();
        assert!(!poll.takes_another_turn());
        assert_eq!(driver.used_entry(0, 0), (0, 513));
    }

    #[test]
    fn files_unusable_as_a_disk_are_refused() {
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
