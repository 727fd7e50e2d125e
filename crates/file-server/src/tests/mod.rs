//! Tests of the whole server: a guest sends FUSE messages over a socket and uses temporary directories as shares.

mod access;
mod content;
mod directories;
mod extended_attributes;
mod guest;
mod hostile;
mod limits;
mod lock_files;
mod mapped_users;
mod names;
mod passed_files;
mod session;
