//! PID 1 of a Pod's virtual machine: prepares the guest, serves the supervisor's requests, ends the VM.
//!
//! It also starts itself again: as `container-init`, the same program becomes a process of a container (see
//! `container::init`), and as `/pause` the first process of a shared PID namespace (see `container::pause`).

mod boot;
mod container;
mod host;
mod kmsg;
mod lock;
mod log;
mod mount_api;
mod network;
mod overlay;
mod port;
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
mod user_namespace;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use microkube_protocol::service::create_agent;
use tokio::sync::{Notify, oneshot};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;
use vsock::VsockListener;

use crate::container::pause;
use crate::container::spec::{HELPER_ARGUMENT, PAUSE_PROGRAM};
use crate::container::{ContainerStarter, Launcher};
use crate::host::Supervisors;
use crate::reaper::Reaper;
use crate::service::{AgentService, BootTimes};

/// How long shutdown waits for the host to take the last of the log.
const LOG_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let start_ns = boot::boottime_ns();
    let mut command = std::env::args_os();
    if command.next().is_some_and(|program| program == PAUSE_PROGRAM) {
        pause::main();
    }
    if command.next().is_some_and(|argument| argument == HELPER_ARGUMENT) {
        container::init::main();
    }
    if std::process::id() != 1 {
        eprintln!("microkube-agent runs only as PID 1 of a microkube VM");
        return ExitCode::FAILURE;
    }
    boot::power_off_on_panic();
    if let Err(error) = priority::raise() {
        log::warning!("cannot raise the agent's priority: {error}");
    }
    if let Err(error) = listen_and_serve(start_ns) {
        log::write(log::Level::Critical, &format_args!("{error:#}"));
    }
    boot::power_off()
}

fn listen_and_serve(start_ns: u64) -> Result<()> {
    let listener = host::listen().context("cannot listen on vsock")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(serve(start_ns, listener))
}

/// Serves until a shutdown is requested.
async fn serve(start_ns: u64, listener: VsockListener) -> Result<()> {
    let supervisors = Supervisors::new();
    // The connection needs no file system, so the host can answer while they are mounted.
    let (connections, prepared) = tokio::join!(host::control_connections(listener, supervisors.clone()), async {
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
    // Waits until every request has been answered, including the one for the shutdown.
    if let Err(error) = server.shutdown().await {
        log::warning!("cannot close the connections cleanly: {error}");
    }
    drop(stop_log);
    if tokio::time::timeout(LOG_TIMEOUT, log_carrier).await.is_err() {
        log::warning!("the host did not read the rest of the log");
    }
    Ok(())
}
