//! Processes against an agent in this test process.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::StreamExt as _;
use microkube_protocol::DataStream;
use microkube_protocol::messages::{SignalProcessResponse, StartProcessResponse};
use microkube_protocol::service::{Agent, create_agent};
use tokio::sync::{mpsc, watch};
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::{Code, get_status};

use super::*;
use crate::pod::guest_log::GuestLog;

/// An agent whose processes start when permitted, write nothing, and run until they are killed.
struct TestAgent {
    guest_streams: Arc<GuestStreams>,
    may_start: watch::Receiver<bool>,
    started: Mutex<HashMap<String, watch::Sender<bool>>>,
    asked: mpsc::UnboundedSender<Asked>,
    /// If set, the immediate answer to all requests to wait for a process.
    end: Option<WaitProcessResponse>,
    refusal: Option<Code>,
}

#[derive(Debug, PartialEq)]
enum Asked {
    Start(Box<StartProcessRequest>),
    /// A kill of a process that is running, or is not.
    Kill {
        runs: bool,
    },
}

impl TestAgent {
    async fn open(&self, id: &str, stdio: Stdio) {
        let (_ended, theirs) = UnixStream::pair().unwrap();
        let id = id.to_owned();
        self.guest_streams
            .serve(DataStream::Process { id, stdio }, theirs)
            .await;
    }
}

#[async_trait]
impl Agent for TestAgent {
    async fn start_process(
        &self,
        _: &TtrpcContext,
        request: StartProcessRequest,
    ) -> ttrpc::Result<StartProcessResponse> {
        let id = request.process_id.clone();
        let _ = self.asked.send(Asked::Start(Box::new(request)));
        if let Some(code) = self.refusal {
            return Err(ttrpc::Error::RpcStatus(get_status(code, "refused")));
        }
        let _ = self.may_start.clone().wait_for(|may| *may).await;
        self.open(&id, Stdio::Stdout).await;
        self.open(&id, Stdio::Stderr).await;
        self.started.lock().unwrap().insert(id, watch::Sender::new(false));
        Ok(StartProcessResponse::default())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: SignalProcessRequest,
    ) -> ttrpc::Result<SignalProcessResponse> {
        assert_eq!(request.signal, 9);
        let started = self.started.lock().unwrap();
        let process = started.get(&request.process_id);
        let _ = self.asked.send(Asked::Kill {
            runs: process.is_some(),
        });
        if let Some(process) = process {
            process.send_replace(true);
        }
        Ok(SignalProcessResponse::default())
    }

    async fn wait_process(&self, _: &TtrpcContext, request: WaitProcessRequest) -> ttrpc::Result<WaitProcessResponse> {
        if let Some(end) = &self.end {
            return Ok(end.clone());
        }
        let killed = {
            let started = self.started.lock().unwrap();
            started.get(&request.process_id).unwrap().subscribe()
        };
        let _ = killed.clone().wait_for(|killed| *killed).await;
        Ok(WaitProcessResponse {
            signal: 9,
            ..Default::default()
        })
    }
}

struct Guest {
    processes: GuestProcesses,
    asked: mpsc::UnboundedReceiver<Asked>,
    may_start: watch::Sender<bool>,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl Guest {
    async fn new(end: Option<WaitProcessResponse>, refusal: Option<Code>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = GuestLog::begin(dir.path().join("guest.log"));
        let guest_streams = GuestStreams::new(None, log, false);
        let (sender, asked) = mpsc::unbounded_channel();
        let (may_start, may) = watch::channel(true);
        let agent = TestAgent {
            guest_streams: Arc::clone(&guest_streams),
            may_start: may,
            started: Mutex::default(),
            asked: sender,
            end,
            refusal,
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connections = futures::stream::iter([Ok(theirs)]).chain(futures::stream::pending());
        let mut server = Server::new()
            .add_listener(Listener::new(connections))
            .register_service(create_agent(Arc::new(agent)));
        server.start().await.unwrap();
        Self {
            processes: GuestProcesses::new(AgentClientHandle::new(ours), guest_streams),
            asked,
            may_start,
            _server: server,
            _dir: dir,
        }
    }

    async fn run(&self, timeout: Option<Duration>) -> Result<(u8, Vec<u8>), RunError> {
        self.processes.run("web-0", &["probe".to_owned()], timeout, 100).await
    }

    async fn next(&mut self) -> Asked {
        self.asked.recv().await.unwrap()
    }
}

/// Passes before a start that waits for permission.
const SHORT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_process_that_starts_after_its_timeout_is_killed() {
    let mut guest = Guest::new(None, None).await;
    guest.may_start.send_replace(false);
    assert_eq!(guest.run(Some(SHORT)).await, Err(RunError::TimedOut));
    let Asked::Start(request) = guest.next().await else {
        panic!("it was not started")
    };
    assert_eq!(request.timeout_ms, 20, "the agent enforces it, too");
    assert_eq!(guest.next().await, Asked::Kill { runs: false });
    guest.may_start.send_replace(true);
    assert_eq!(guest.next().await, Asked::Kill { runs: true });
}

#[tokio::test]
async fn a_process_is_killed_at_its_timeout() {
    let mut guest = Guest::new(None, None).await;
    assert_eq!(guest.run(Some(SHORT)).await, Err(RunError::TimedOut));
    while guest.next().await != (Asked::Kill { runs: true }) {}
}

#[tokio::test]
async fn an_abandoned_start_is_killed() {
    let mut guest = Guest::new(None, None).await;
    guest.may_start.send_replace(false);
    let spec = ProcessSpec {
        container_id: "web-0".to_owned(),
        args: vec!["sh".to_owned()],
        ..Default::default()
    };
    let processes = guest.processes.clone();
    let waiting = tokio::spawn(async move { processes.start(spec).await });
    assert!(matches!(guest.next().await, Asked::Start(request) if request.timeout_ms == 0));
    waiting.abort();
    assert_eq!(guest.next().await, Asked::Kill { runs: false });
    guest.may_start.send_replace(true);
    assert_eq!(guest.next().await, Asked::Kill { runs: true });
}

#[tokio::test]
async fn a_timeout_reported_by_the_agent_counts() {
    let end = WaitProcessResponse {
        signal: 9,
        timed_out: true,
        ..Default::default()
    };
    let guest = Guest::new(Some(end), None).await;
    assert_eq!(guest.run(None).await, Err(RunError::TimedOut));
    let guest = Guest::new(None, Some(Code::DEADLINE_EXCEEDED)).await;
    assert_eq!(guest.run(None).await, Err(RunError::TimedOut));
    let guest = Guest::new(None, Some(Code::NOT_FOUND)).await;
    assert_eq!(guest.run(None).await, Err(RunError::Failed("refused".to_owned())));
}

#[tokio::test]
async fn a_process_that_exits_in_time_is_not_killed() {
    let end = WaitProcessResponse {
        exit_code: 3,
        ..Default::default()
    };
    let mut guest = Guest::new(Some(end), None).await;
    assert_eq!(guest.run(Some(Duration::from_secs(600))).await, Ok((3, Vec::new())));
    assert!(matches!(guest.next().await, Asked::Start(_)));
    drop(guest.processes);
    tokio::task::yield_now().await;
    assert!(guest.asked.try_recv().is_err());
}

/// Runs many processes with 1 MiB of arguments on an agent that never starts them, until they time out.
async fn run_many(agent: AgentClientHandle) -> GuestProcesses {
    let dir = tempfile::tempdir().unwrap();
    let guest_streams = GuestStreams::new(None, GuestLog::begin(dir.path().join("guest.log")), false);
    let processes = GuestProcesses::new(agent, guest_streams);
    let args = Arc::new(["x".repeat(1 << 20)]);
    for _ in 0..5 {
        let mut runs = tokio::task::JoinSet::new();
        for _ in 0..80 {
            let (processes, args) = (processes.clone(), Arc::clone(&args));
            runs.spawn(async move {
                processes
                    .run("web-0", &args[..], Some(Duration::from_secs(10)), 100)
                    .await
            });
        }
        while let Some(run) = runs.join_next().await {
            assert_eq!(run.unwrap(), Err(RunError::TimedOut));
        }
    }
    processes
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Two tasks per request, one for its start and one for its kill, and a few that serve the connection.
const MAX_TASKS: usize = 2 * (MAX_PENDING_BYTES >> 20) + 10;

#[tokio::test(start_paused = true)]
async fn a_guest_that_stops_reading_is_lost_with_bounded_memory() {
    let (ours, _theirs) = tokio::io::duplex(64 << 10);
    let processes = run_many(AgentClientHandle::new(ours)).await;
    assert!(alive_tasks() <= MAX_TASKS, "{}", alive_tasks());
    let lost = processes.agent.lost().await;
    assert_eq!(lost.why, "does not read requests");
    while alive_tasks() > 2 {
        tokio::time::sleep(KILL_TIMEOUT).await;
    }
    assert_eq!(processes.pending.bytes.available_permits(), MAX_PENDING_BYTES);
    assert_eq!(processes.pending.count.available_permits(), MAX_PENDING_STARTS);
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_has_bounded_memory() {
    let (ours, mut theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await });
    let processes = run_many(AgentClientHandle::new(ours)).await;
    assert!(alive_tasks() <= MAX_TASKS + 1, "{}", alive_tasks());
    assert!(processes.pending.bytes.available_permits() < 1 << 20, "as much as fits");
}

#[test]
fn debug_does_not_show_the_arguments_of_a_process() {
    let spec = ProcessSpec {
        container_id: "web-0".to_owned(),
        args: vec!["login".to_owned(), "--password=hunter2".to_owned()],
        ..Default::default()
    };
    let shown = format!("{spec:?}");
    assert!(shown.contains(r#"container_id: "web-0", args: (2)"#), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
