use super::*;

struct Fixture {
    dir: tempfile::TempDir,
    root: Directory,
    journal: Journal,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Directory::open(dir.path()).unwrap();
        Counter::create(&root).unwrap();
        let journal = Journal::new(dir.path().join("run")).unwrap();
        Self { dir, root, journal }
    }

    fn counter(&self) -> Counter {
        Counter::read(&self.root).unwrap().unwrap()
    }

    fn append(&self) -> u64 {
        let mut counter = self.counter();
        let mut writer = self.journal.writer(&self.root, &mut counter).unwrap();
        writer.append(&self.root, &mut counter, change).unwrap()
    }

    fn last(&self) -> u64 {
        self.journal.last(&self.counter()).unwrap()
    }

    /// All versions after a position, or `None` if there is a gap.
    fn after(&self, mut position: Position) -> Option<Vec<u64>> {
        let mut versions = Vec::new();
        loop {
            match self.journal.read(&self.counter(), &position).unwrap() {
                Read::Gap => return None,
                Read::Changes(changes) => {
                    let Some((_, last)) = changes.last() else {
                        return Some(versions);
                    };
                    position = last.clone();
                    versions.extend(changes.iter().map(|(change, _)| change.version));
                }
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("run").join(FILE)
    }
}

fn change(version: u64) -> Change {
    Change {
        version,
        resource: "configmaps".to_owned(),
        namespace: Some("default".to_owned()),
        name: "\"é\\".repeat(50),
        uid: None,
        deleted: version.is_multiple_of(2),
    }
}

#[test]
fn numbers_follow_each_other_and_can_be_read_from_any() {
    let fixture = Fixture::new();
    let start = fixture.last();
    assert_eq!(start, 1);
    assert_eq!(fixture.after(Position::after(start)), Some(vec![]));
    let used: Vec<u64> = (0..5).map(|_| fixture.append()).collect();
    assert_eq!(used, [2, 3, 4, 5, 6]);
    assert_eq!(fixture.last(), 6);
    for skipped in 0..=5 {
        let position = Position::after(start + skipped as u64);
        assert_eq!(fixture.after(position), Some(used[skipped..].to_vec()));
    }
    assert_eq!(fixture.after(Position::after(0)), None);
    assert_eq!(fixture.after(Position::after(7)), None);
    let Read::Changes(changes) = fixture.journal.read(&fixture.counter(), &Position::after(1)).unwrap() else {
        panic!("a gap");
    };
    assert_eq!(changes[0].0, change(2));
}

#[test]
fn without_its_journal_the_whole_block_counts_as_used() {
    let fixture = Fixture::new();
    fixture.append();
    let reserved = fixture.counter().reserved;
    let remove = || std::fs::remove_file(fixture.file()).unwrap();
    let foreign = || std::fs::write(fixture.file(), "{\"id\":\"x\",\"boot\":\"x\",\"start\":5}\n").unwrap();
    let other_boot = || {
        let text = std::fs::read_to_string(fixture.file()).unwrap();
        std::fs::write(fixture.file(), text.replace(&fixture.journal.boot, "other")).unwrap();
    };
    let damaged = || {
        let text = std::fs::read_to_string(fixture.file()).unwrap();
        std::fs::write(fixture.file(), text + "{}\n").unwrap();
    };
    let too_high = || {
        let text = std::fs::read_to_string(fixture.file()).unwrap();
        let line = serde_json::to_string(&change(u64::MAX)).unwrap();
        std::fs::write(fixture.file(), text + &line + "\n").unwrap();
    };
    let losses: [&dyn Fn(); 5] = [&remove, &foreign, &other_boot, &damaged, &too_high];
    let mut expected = reserved;
    for lose in losses {
        lose();
        assert_eq!(fixture.last(), expected);
        assert_eq!(fixture.after(Position::after(2)), None);
        assert_eq!(fixture.after(Position::after(expected)), Some(vec![]));
        assert_eq!(fixture.append(), expected + 1);
        assert_eq!(fixture.after(Position::after(expected)), Some(vec![expected + 1]));
        expected = fixture.counter().reserved;
    }
}

#[test]
fn a_torn_line_is_dropped() {
    let fixture = Fixture::new();
    fixture.append();
    let whole = std::fs::read(fixture.file()).unwrap();
    let line = serde_json::to_vec(&change(3)).unwrap();
    for length in 1..line.len() {
        std::fs::write(fixture.file(), [&whole[..], &line[..length]].concat()).unwrap();
        assert_eq!(fixture.last(), 2);
        assert_eq!(fixture.after(Position::after(1)), Some(vec![2]));
    }
    assert_eq!(fixture.append(), 3);
    assert_eq!(fixture.after(Position::after(1)), Some(vec![2, 3]));
}

#[test]
fn the_journal_is_bounded_and_a_reader_that_is_too_late_finds_a_gap() {
    let fixture = Fixture::new();
    let mut reader = Position::after(1);
    let mut read = 1;
    let mut counter = fixture.counter();
    for round in 0..3 * MAX_FILE_BYTES / 500 {
        let mut writer = fixture.journal.writer(&fixture.root, &mut counter).unwrap();
        writer.append(&fixture.root, &mut counter, change).unwrap();
        if round % 500 == 0 {
            while let Read::Changes(changes) = fixture.journal.read(&counter, &reader).unwrap() {
                let Some((_, last)) = changes.last() else { break };
                reader = last.clone();
                for (change, _) in changes {
                    assert_eq!(change.version, read + 1);
                    read = change.version;
                }
            }
        }
    }
    assert!(read > 3 * MAX_FILE_BYTES / 500 - 500, "{read}");
    assert_eq!(fixture.after(Position::after(1)), None);
    let old = fixture.journal.open(OLD_FILE, &counter).unwrap().unwrap();
    let all = fixture.after(Position::after(old.head.start)).unwrap();
    let expected: Vec<u64> = (old.head.start + 1..=fixture.last()).collect();
    assert_eq!(all, expected, "across both files");
    for file in [FILE, OLD_FILE] {
        let length = std::fs::metadata(fixture.dir.path().join("run").join(file))
            .unwrap()
            .len();
        assert!(length < MAX_FILE_BYTES + MAX_LINE_BYTES as u64);
    }
}

#[test]
fn a_number_is_on_disk_as_reserved_before_it_is_used() {
    let fixture = Fixture::new();
    let mut last = 0;
    let mut counter = fixture.counter();
    for _ in 0..2500 {
        let mut writer = fixture.journal.writer(&fixture.root, &mut counter).unwrap();
        let version = writer.append(&fixture.root, &mut counter, change).unwrap();
        assert!(version > last && version <= fixture.counter().reserved);
        last = version;
    }
}
