//! How long the processes of a Pod may take to answer and to end, and how these times relate. The lifecycle has its own
//! timeouts.

use std::time::Duration;

use super::lifecycle;

/// How long a host process may take to end after SIGKILL. The signal cannot be ignored, so only a faulty kernel or an
/// unresponsive disk takes this long.
pub const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long the guest may take to power off when asked.
pub const POWER_OFF_PATIENCE: Duration = Duration::from_secs(3);

/// The same, while the guest also writes its memory to a disk that the next VM uses. Less than the lifecycle's patience
/// for the end of a sandbox.
pub const SYNC_PATIENCE: Duration = Duration::from_secs(10);

/// How long a VM may take to end after the connection to its agent is lost. If it still runs then, it is killed,
/// because the state of its containers is unknown.
pub const MACHINE_END_PATIENCE: Duration = Duration::from_secs(5);

/// How long the readers of the last output may take, after a container that had to end or a VM that ended unexpectedly.
pub const LAST_OUTPUT_PATIENCE: Duration = Duration::from_secs(5);

/// How long a supervisor may take to end a Pod whose command line was killed: as long as its containers and its VM
/// may take.
pub const END_PATIENCE: Duration = Duration::from_secs(30);

const _: () = assert!(
    END_PATIENCE.as_secs()
        > lifecycle::KILL_PATIENCE.as_secs()
            + LAST_OUTPUT_PATIENCE.as_secs()
            + POWER_OFF_PATIENCE.as_secs()
            + KILL_PATIENCE.as_secs()
);

// The end of a killed container must be reported before the lifecycle abandons it.
const _: () = assert!(LAST_OUTPUT_PATIENCE.as_secs() < lifecycle::KILL_PATIENCE.as_secs());

/// How long a supervisor may take to answer, or to start listening.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// The same for a forced deletion. A supervisor that takes longer is assumed to hang, and is killed.
pub const FORCE_PATIENCE: Duration = Duration::from_secs(5);

const _: () = assert!(FORCE_PATIENCE.as_secs() < ANSWER_PATIENCE.as_secs());

/// How long a process waits for others that apply the rules of volume claims. Creating a disk takes seconds at most.
pub const CLAIMS_PATIENCE: Duration = Duration::from_secs(60);

/// Polling interval for conditions without an event: a lock with a time limit, the first free lock of several, a
/// process that starts to listen.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);
