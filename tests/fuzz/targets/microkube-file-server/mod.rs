//! The fuzz targets of the crate `microkube_file_server`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod fuse_messages;
