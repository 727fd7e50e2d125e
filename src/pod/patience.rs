//! How long what belongs to a Pod may take to answer and to end, and how these times relate. What the lifecycle waits for is the
//! lifecycle's own.

use std::time::Duration;

use super::lifecycle;

/// How long a process of this host may take to be gone after SIGKILL. It cannot be ignored, so only a kernel that is out of order, or
/// a disk that does not answer, takes this long.
pub const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long the guest may take to turn itself off after it was asked to.
pub const POWER_OFF_PATIENCE: Duration = Duration::from_secs(3);

/// How long a machine may take to end after its agent is gone. One that goes on without is of no use: nobody knows what runs in it.
pub const LAST_WORD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a supervisor may take to end a Pod whose command line was killed: as long as its containers and its machine may take.
pub const END_PATIENCE: Duration = Duration::from_secs(30);

const _: () = assert!(
    END_PATIENCE.as_secs()
        > lifecycle::KILL_PATIENCE.as_secs() + POWER_OFF_PATIENCE.as_secs() + KILL_PATIENCE.as_secs()
);

/// How long a supervisor may take to answer, or to begin to listen.
pub const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// The same where a Pod is deleted by force. After that it is killed: this is for Pods whose supervisors hang.
pub const FORCE_PATIENCE: Duration = Duration::from_secs(5);

const _: () = assert!(FORCE_PATIENCE.as_secs() < ANSWER_PATIENCE.as_secs());

/// How often something is looked at that cannot be waited for: a lock with a limit, the first of several locks, somebody who begins to
/// listen.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);
