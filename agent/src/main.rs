//! PID 1 of a Pod's virtual machine: prepares the guest, serves the supervisor's requests, ends the machine.
//!
//! Started again as `container-init` by itself, the same program becomes a process of a container (see [`container::init`]).

mod boot;
mod container;
mod host;
mod kmsg;
mod lock;
mod log;
mod mount_api;
mod network;
mod priority;
mod reaper;
mod registry;
mod request;
mod request_field;
mod sandbox;
mod service;
mod start_order;
mod stdio;
#[cfg(test)]
mod test_directory;
mod under_way;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use microkube_protocol::service::create_agent;
use tokio::sync::{Notify, oneshot};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::container::spec::HELPER_ARGUMENT;
use crate::container::{ContainerStarter, Launcher};
use crate::host::Supervisors;
use crate::reaper::Reaper;
use crate::service::{AgentService, BootTimes};

/// How long the end of the machine waits for the host to take the last of the log.
const LOG_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let start_ns = boot::boottime_ns();
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == HELPER_ARGUMENT)
    {
        container::init::main();
    }
    if std::process::id() != 1 {
        eprintln!("microkube-agent is PID 1 of a microkube virtual machine and does nothing else");
        return ExitCode::FAILURE;
    }
    boot::power_off_on_panic();
    if let Err(error) = priority::raise() {
        log::warning!("cannot raise the agent's priority: {error}");
    }
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(serve(start_ns)));
    if let Err(error) = served {
        log::write(log::Level::Critical, &format_args!("{error:#}"));
    }
    boot::power_off()
}

/// Serves until a shutdown was asked for.
async fn serve(start_ns: u64) -> Result<()> {
    let supervisors = Supervisors::new();
    // The connection needs no file system: the host answers while they are mounted.
    let (connections, prepared) = tokio::join!(host::control_connections(supervisors.clone()), async {
        boot::mount_file_systems()
    });
    prepared?;
    let connections = connections.context("cannot use vsock")?;
    let executable = boot::open_own_executable()?;
    let reaper = Reaper::default();
    let child_ended = Reaper::listen().context("cannot listen for ended processes")?;
    tokio::spawn(reaper.clone().run(child_ended));

    let shutdown = Arc::new(Notify::new());
    let boot_times = BootTimes {
        start_ns,
        ready_ns: boot::boottime_ns(),
    };
    let starter = ContainerStarter {
        launcher: Launcher { executable, reaper },
        supervisors: supervisors.clone(),
    };
    let service = AgentService::new(boot_times, starter, Arc::clone(&shutdown));
    let mut server = Server::new()
        .add_listener(Listener::new(connections))
        .register_service(create_agent(Arc::new(service)));
    server.start().await.context("cannot serve requests")?;
    let (stop_log, log_stopped) = oneshot::channel();
    let log_carrier = tokio::spawn(kmsg::carry(supervisors, log_stopped));

    shutdown.notified().await;
    // Waits until every request was answered, the one for the shutdown included.
    if let Err(error) = server.shutdown().await {
        log::warning!("cannot end the connections in order: {error}");
    }
    drop(stop_log);
    if tokio::time::timeout(LOG_TIMEOUT, log_carrier).await.is_err() {
        log::warning!("the host did not take the rest of the log");
    }
    Ok(())
}
