//! `microkube port-forward`: local ports that lead to ports of a Pod.

mod connection;
mod listeners;
mod ports;

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::completion;
use super::failure::Failure;
use super::namespace::NamespaceArg;
use super::pods_host::{self, Place, Purpose};
use super::print::print;
use super::stream::running::running_timeout;
use super::stream::session::{Endings, exit_code_of_signal};
use super::stream::target;
use crate::emulated_host;
use crate::pod::changes::Changes;
use crate::pod::recorded_pod::RecordedPod;
use crate::state::{Paths, PodRecords};
use crate::stderr::report;
use connection::forward;
use listeners::{ListenAddress, Listener, listen};
use ports::ForwardedPort;

/// Maximum number of connections at a time; others wait. A Pod does not accept as many.
const MAX_CONNECTIONS: usize = 128;

/// Forward one or more local ports to a Pod
///
/// Reaches servers of the Pod that listen on its localhost or on all addresses. The remote port is a number, or the name
/// of a port of one of the containers. Ends with Ctrl-C, or with an error when the Pod ends.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "microkube port-forward [OPTIONS] TYPE/NAME [LOCAL_PORT:]REMOTE_PORT...",
    after_help = "Examples:\n  microkube port-forward pod/web 5000 6000\n  microkube port-forward web 8080:80\n  microkube port-forward web :80\n  microkube \
                  port-forward web 8080:http\n  microkube port-forward --address 0.0.0.0 web 8080:80"
)]
pub struct PortForwardArgs {
    /// Pod name: NAME or pod/NAME
    #[arg(value_name = "TYPE/NAME", add = completion::pod_names())]
    pod: Option<String>,
    /// Ports: the same here and in the Pod, LOCAL_PORT:REMOTE_PORT, or :REMOTE_PORT for a random local port
    #[arg(value_name = "[LOCAL_PORT:]REMOTE_PORT")]
    ports: Vec<String>,
    /// Addresses to listen on (comma separated): IP addresses, or localhost for 127.0.0.1 and ::1, of which one must be
    /// available
    #[arg(long, default_value = "localhost", value_delimiter = ',', value_name = "ADDRESS")]
    address: Vec<String>,
    /// How long to wait for the Pod to run
    #[arg(long, default_value = "1m", value_parser = running_timeout, allow_hyphen_values = true, value_name = "DURATION")]
    pod_running_timeout: Duration,
    #[command(flatten)]
    namespace: NamespaceArg,
}

pub(super) fn run(args: PortForwardArgs) -> Result<ExitCode, Failure> {
    let name = args.pod.filter(|_| !args.ports.is_empty());
    let name = name.ok_or_else(|| anyhow!("TYPE/NAME and list of ports are required for port-forward"))?;
    let addresses = ListenAddress::parse_all(&args.address)?;
    let paths = match pods_host::go_to_pods(Purpose::Look, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let target = target::find(&paths, &args.namespace.or_default(), &name)?;
    let pod = &target.record.pod;
    let ports = args.ports.iter().map(|text| ForwardedPort::parse(text, pod));
    let ports = ports.collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(async {
        let mut endings = Endings::new()?;
        let ended: anyhow::Result<u8> = tokio::select! {
            biased;
            number = endings.next() => Ok(number),
            ended = serve(&paths, &target, &ports, &addresses, args.pod_running_timeout) => ended.map(|never| match never {}),
        };
        // As in kubectl, Ctrl-C is the usual end.
        ended.map(|number| match i32::from(number) {
            libc::SIGINT => 0,
            _ => exit_code_of_signal(number),
        })
    })?;
    Ok(ExitCode::from(exit_code))
}

/// Forwards connections until the Pod ends, which is an error as in kubectl.
async fn serve(
    paths: &Paths,
    target: &RecordedPod,
    ports: &[ForwardedPort],
    addresses: &[ListenAddress],
    running_timeout: Duration,
) -> anyhow::Result<Infallible> {
    let mut watch = PodWatch::new(paths, target)?;
    watch.running(running_timeout).await?;
    let listeners = listen(ports, addresses)?;
    if emulated_host::is_inside() {
        report!("these ports are open in the emulated host only; `microkube machine exec` runs programs there");
    }
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(
            listener,
            paths.clone(),
            target.record.uid.clone(),
            Arc::clone(&slots),
        ));
    }
    tokio::select! {
        ended = watch.ended() => {
            ended?;
            bail!("lost connection to pod")
        }
        Some(failed) = accepting.join_next() => Err(failed.unwrap_or_else(anyhow::Error::from)),
    }
}

/// Forwards the connections to one socket; returns why it cannot any more.
async fn accept(listener: Listener, paths: Paths, uid: String, slots: Arc<Semaphore>) -> anyhow::Error {
    let Listener { socket, port } = listener;
    loop {
        let slot = match Arc::clone(&slots).acquire_owned().await {
            Ok(slot) => slot,
            Err(closed) => return closed.into(),
        };
        let connection = match socket.accept().await {
            Ok((connection, _)) => connection,
            // The other side was faster.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return anyhow!("error accepting connection on port {}: {error}", port.local),
        };
        if let Err(error) = print(&format!("Handling connection for {}\n", port.local)) {
            return error;
        }
        let (paths, uid) = (paths.clone(), uid.clone());
        tokio::spawn(async move {
            forward(connection, port, &paths, &uid).await;
            drop(slot);
        });
    }
}

/// Follows the phase of a Pod.
#[derive(Debug)]
struct PodWatch<'p> {
    pod: &'p RecordedPod,
    records: PodRecords,
    changes: Changes,
}

impl<'p> PodWatch<'p> {
    /// Starts watching now.
    fn new(paths: &Paths, pod: &'p RecordedPod) -> anyhow::Result<Self> {
        Ok(Self {
            pod,
            records: PodRecords::new(paths.clone()),
            changes: Changes::of(paths)?,
        })
    }

    /// The phase; `None` if the Pod is gone.
    fn phase(&self) -> anyhow::Result<Option<String>> {
        let uid = &self.pod.record.uid;
        let Some(record) = self.records.visible(uid)? else {
            return Ok(None);
        };
        let pod = RecordedPod::of(&self.records, record)?;
        Ok(Some(pod.phase().to_owned()))
    }

    /// Waits until the Pod runs.
    ///
    /// # Errors
    /// As in kubectl: if it has ended, or does not run in time.
    async fn running(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let Some(phase) = self.phase()? else {
                bail!("pod {:?} was deleted while waiting for it", self.pod.record.name);
            };
            let not_running = || anyhow!("unable to forward port because pod is not running. Current status={phase}");
            match phase.as_str() {
                "Running" => return Ok(()),
                "Succeeded" | "Failed" => return Err(not_running()),
                _ => tokio::select! {
                    changed = self.changes.next() => drop(changed?),
                    () = tokio::time::sleep_until(deadline) => return Err(not_running()),
                },
            }
        }
    }

    /// Waits until the Pod has ended or is gone.
    async fn ended(&mut self) -> anyhow::Result<()> {
        while let Some(phase) = self.phase()?
            && !matches!(phase.as_str(), "Succeeded" | "Failed")
        {
            self.changes.next().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::test_pods::TestPods;

    fn target(pods: &TestPods, uid: &str) -> RecordedPod {
        RecordedPod::of(&pods.records, pods.records.get(uid).unwrap().unwrap()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_does_not_run_in_time_is_an_error_with_its_phase() {
        let pods = TestPods::new();
        let target = target(&pods, &pods.add("web", &[]));
        let mut watch = PodWatch::new(&pods.paths, &target).unwrap();
        let waited = watch.running(Duration::from_secs(60)).await;
        assert_eq!(
            waited.unwrap_err().to_string(),
            "unable to forward port because pod is not running. Current status=Pending"
        );
    }

    #[tokio::test]
    async fn a_pod_that_is_gone_has_ended() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        let target = target(&pods, &uid);
        let mut watch = PodWatch::new(&pods.paths, &target).unwrap();
        pods.hide(&uid);
        watch.ended().await.unwrap();
        let waited = watch.running(Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(waited.to_string(), "pod \"web\" was deleted while waiting for it");
    }
}
