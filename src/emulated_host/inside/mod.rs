//! The parts that run in the emulated host: PID 1 (`init`), the receiver of commands (`agent`), and the start of each
//! command (`session`).

mod agent;
mod command;
mod init;
mod session;

pub use agent::agent;
pub use init::init;
pub use session::session;
