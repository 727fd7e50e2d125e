//! Pulls from a real registry, Debian's docker-registry, with TLS, passwords and tokens, of images that other tools pushed.
//!
//! They need no KVM, and no root: microkube gets directories and a home of its own.

mod authentication;
mod images;
mod server;
mod together;
