//! The image store against other implementations, as root but without a virtual machine: the kernel's EROFS and
//! overlayfs, `fsck.erofs`, GNU tar, and tools that build and load images. A missing tool makes a test fail; `make
//! image-test` installs them.

mod attributes;
mod crash;
mod exchange;
mod merged;
mod mounted;
mod real_layers;
mod trees;
