//! Which requests the guest's kernel sends to the file server for one operation on a hostPath volume.
//!
//! `strace` shows the header of each request as the server receives it. The requests of a run without the operation are
//! subtracted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Bench, succeed};

/// How often a run repeats the operation.
const COUNT: usize = 100;

/// Operations on files `a0` to `a99`, as Perl. Each begins with what the previous ones have left.
const OPERATIONS: [(&str, &str); 9] = [
    (
        "create, close",
        "sysopen F, \"a$_\", O_CREAT | O_EXCL | O_WRONLY or die; close F",
    ),
    ("stat", "stat \"a$_\" or die"),
    (
        "open, write 4 KiB, close",
        "sysopen F, \"a$_\", O_WRONLY or die; syswrite F, 'x' x 4096 or die; close F or die",
    ),
    (
        "open, read 4 KiB, close",
        "sysopen F, \"a$_\", O_RDONLY or die; sysread F, $d, 4096 or die; close F",
    ),
    ("chmod", "chmod 0600, \"a$_\" or die"),
    ("rename", "rename \"a$_\", \"b$_\" or die"),
    ("unlink", "unlink \"b$_\" or die"),
    ("mkdir", "mkdir \"d$_\" or die"),
    ("rmdir", "rmdir \"d$_\" or die"),
];

/// Number of requests by opcode, linux/fuse.h.
type Requests = BTreeMap<u32, usize>;

/// Prints a line for each operation.
pub fn print(bench: &Bench) {
    let mut pod = Pod::start(bench);
    println!("requests to the file server for one operation on a hostPath, on average");
    for (name, operation) in OPERATIONS {
        let without = pod.requests(operation, 0);
        let with = pod.requests(operation, COUNT);
        let all: Vec<String> = with
            .iter()
            .filter_map(|(opcode, number)| {
                let number = number.saturating_sub(without.get(opcode).copied().unwrap_or(0));
                // Forgetting depends on the guest's memory, and answers nothing.
                (number * 10 >= COUNT).then(|| format!("{} {:.1}", opcode_name(*opcode), number as f64 / COUNT as f64))
            })
            .collect();
        println!("{name:<26} {}", all.join(", "));
    }
    pod.end();
}

struct Pod<'b> {
    bench: &'b Bench,
    run: Child,
    server: u32,
}

impl<'b> Pod<'b> {
    fn start(bench: &'b Bench) -> Self {
        let host_path = format!("\"hostPath\": {{ \"path\": {:?} }}", bench.path("shared"));
        let manifest = bench.manifest(&host_path, r#""sh", "-c", "echo ready; exec sleep infinity""#);
        let mut run = bench
            .microkube(["run"])
            .arg(manifest)
            .stdout(Stdio::piped())
            .spawn()
            .expect("microkube starts");
        let output = run.stdout.as_mut().expect("it is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("it can be read");
        assert_eq!(line, "ready\n", "the Pod does not run");
        let server = process("microkube-file-server").expect("a Pod with shares has a file server");
        Self { bench, run, server }
    }

    fn requests(&self, operation: &str, count: usize) -> Requests {
        let trace = self.bench.path("trace");
        let mut strace = Command::new("strace")
            .args(["-f", "-xx", "-s", "8", "-e", "trace=recvfrom", "-o"])
            .arg(&trace)
            .arg("-p")
            .arg(self.server.to_string())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace starts");
        let mut messages = BufReader::new(strace.stderr.take().expect("it is piped"));
        let mut line = String::new();
        messages.read_line(&mut line).expect("strace can be read");
        assert!(line.contains("attached"), "{line}");
        let code = format!("use Fcntl; chdir '/data' or die; for (0 .. {count} - 1) {{ {operation} }}");
        succeed(self.bench.microkube(["exec", "bench", "--", "perl", "-e"]).arg(code));
        // It lets go of the server and writes the rest of the file.
        succeed(Command::new("kill").args(["-INT", &strace.id().to_string()]));
        strace.wait().expect("strace ends");
        requests_in(&std::fs::read_to_string(trace).expect("strace wrote it"))
    }

    fn end(&mut self) {
        succeed(&mut self.bench.microkube(["delete", "pod", "bench", "--now"]));
        self.run.wait().expect("the command ends with its Pod");
    }
}

/// The requests in the output of strace: what was received as the 40 bytes of `struct fuse_in_header`.
fn requests_in(trace: &str) -> Requests {
    let mut requests = Requests::new();
    for line in trace.lines().filter(|line| line.ends_with(" = 40")) {
        let Some((_, bytes)) = line.split_once("\"\\x") else {
            continue;
        };
        let bytes: Vec<u32> = bytes
            .split("\\x")
            .filter_map(|byte| u32::from_str_radix(byte.get(..2)?, 16).ok())
            .collect();
        if let [_, _, _, _, a, b, c, d] = bytes[..] {
            *requests.entry(a | b << 8 | c << 16 | d << 24).or_default() += 1;
        }
    }
    requests
}

fn opcode_name(opcode: u32) -> String {
    let name = match opcode {
        1 => "LOOKUP",
        3 => "GETATTR",
        4 => "SETATTR",
        9 => "MKDIR",
        10 => "UNLINK",
        11 => "RMDIR",
        12 | 45 => "RENAME",
        14 => "OPEN",
        15 => "READ",
        16 => "WRITE",
        18 => "RELEASE",
        22 => "GETXATTR",
        25 => "FLUSH",
        35 => "CREATE",
        other => return format!("opcode {other}"),
    };
    name.to_owned()
}

/// A process of this program.
fn process(program: &str) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let first = command.split(|byte| *byte == 0).next()?;
        let name = Path::new(std::str::from_utf8(first).ok()?).file_name()?;
        (name == program).then_some(pid)
    })
}
