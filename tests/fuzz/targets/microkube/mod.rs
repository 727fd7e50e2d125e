//! The fuzz targets of the crate `microkube`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod command_line;
mod configuration;
mod container_log;
mod guest;
mod health_response;
