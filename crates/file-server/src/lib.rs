//! The file server of microkube's shares: it serves the FUSE requests of one Pod's virtual machine on directories and
//! files of the host.
//!
//! The virtual machine monitor passes requests and replies over a stream socket; this process never has the guest's
//! memory. The guest is an attacker: requests are bounded and checked (`protocol`), names are single components that
//! are looked up below an open directory (`inode`), what a guest holds is limited (`inodes`, `handles`, `locks`), and
//! the process has nothing of the host but its shares (`confinement`).

pub mod confinement;
pub mod control;
mod credentials;
pub mod descriptor_paths;
mod file_status;
pub mod file_system;
mod handles;
mod inode;
mod inodes;
mod locks;
mod operations;
pub mod protocol;
mod replies;
mod requests;
pub mod server;
pub mod share;
#[cfg(test)]
mod tests;
