//! The fuzz targets of the crate `microkube_store`, as its unit tests replay them.
#![allow(unused_attributes)] // `no_main` is for the fuzzer.

mod object_file;
