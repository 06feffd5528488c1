//! The appliance as a virtual machine: builds its disk, and boots it in QEMU.
//!
//! docs/image.md says what is on the disk and why. The build needs root, for chroot, and neither loop devices nor
//! mounts of file systems of its own. Nothing here is part of a running node but the files in `files/`,
//! `initramfs/` and those of the crates in `appliance/`.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod assemble;
pub mod version;
pub mod packages;
pub mod system;
pub mod modules;
pub mod cpio;
pub mod kernel;
pub mod layout;
pub mod disk;
pub mod sparse;
pub mod vhd;
pub mod sbom;
pub mod qemu;
pub mod program;
