//! Pulls images that other tools pushed from a real registry, Debian's docker-registry, with TLS, passwords and tokens.
//!
//! The tests need neither KVM nor root: microkube gets separate directories and a separate home.

mod authentication;
mod images;
mod server;
mod together;
