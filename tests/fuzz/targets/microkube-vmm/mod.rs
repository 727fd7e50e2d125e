//! The fuzz targets of the crate `microkube_vmm`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod fs_messages;
