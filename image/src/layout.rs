//! Where things are on the disk.
//!
//! ```text
//! 1 MiB │ ESP: systemd-boot, a unified kernel image for each root │ root a │ root b │ data, to the disk's end │
//! ```
//!
//! All numbers and identifiers are fixed: two builds of one version are the same bytes, and an upgrade finds
//! the partitions that any other version has made.

use std::fmt::Write as _;

pub const MIB: u64 = 1 << 20;
/// Whole, as Azure wants it, with room for both partition tables.
pub const DISK_MIB: u64 = 1_024;
const DISK_ID: &str = "6AB10000-0001-4000-8000-000000000000";

/// One partition of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    pub label: &'static str,
    pub first_mib: u64,
    pub size_mib: u64,
    /// What it is for, by the table of the Discoverable Partitions Specification.
    kind: &'static str,
    id: &'static str,
}

/// Three unified kernel images: two, and the one that is being written.
pub const ESP: Partition = Partition {
    label: "gabion-esp",
    first_mib: 1,
    size_mib: 127,
    kind: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    id: "6AB10000-0001-4000-8000-000000000001",
};
pub const ROOT_A: Partition = Partition {
    label: "gabion-root-a",
    first_mib: 128,
    size_mib: 256,
    kind: ROOT_KIND,
    id: "6AB10000-0001-4000-8000-000000000002",
};
pub const ROOT_B: Partition = Partition {
    label: "gabion-root-b",
    first_mib: 384,
    size_mib: 256,
    kind: ROOT_KIND,
    id: "6AB10000-0001-4000-8000-000000000003",
};
/// The last, as it grows.
pub const DATA: Partition = Partition {
    label: "gabion-data",
    first_mib: 640,
    size_mib: 383,
    // Generic: systemd-repart finds the partition that it may grow by its kind.
    kind: "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    id: "6AB10000-0001-4000-8000-000000000004",
};
/// Root of x86-64.
const ROOT_KIND: &str = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709";

pub const PARTITIONS: [Partition; 4] = [ESP, ROOT_A, ROOT_B, DATA];

impl Partition {
    pub fn first_byte(&self) -> u64 {
        self.first_mib * MIB
    }

    pub fn bytes(&self) -> u64 {
        self.size_mib * MIB
    }

    /// As file systems are given it.
    pub fn id(&self) -> String {
        self.id.to_lowercase()
    }
}

/// What sfdisk is told.
pub fn sfdisk_script() -> String {
    let mut script = format!("label: gpt\nlabel-id: {DISK_ID}\nunit: sectors\n");
    for partition in PARTITIONS {
        let _ = writeln!(
            script,
            "start={}MiB, size={}MiB, type={}, uuid={}, name=\"{}\"",
            partition.first_mib, partition.size_mib, partition.kind, partition.id, partition.label
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_one_another_and_leave_room_for_both_tables() {
        let mut next_mib = 1;
        for partition in PARTITIONS {
            assert_eq!(partition.first_mib, next_mib, "{}", partition.label);
            next_mib += partition.size_mib;
        }
        assert_eq!(next_mib, DISK_MIB - 1);
    }

    #[test]
    fn nothing_but_the_data_is_of_the_kind_that_grows() {
        let grows: Vec<_> =
            PARTITIONS.iter().filter(|p| p.kind == DATA.kind).map(|p| p.label).collect();
        assert_eq!(grows, [DATA.label]);
    }

    #[test]
    fn the_script_names_each_partition_with_its_identifier() {
        let script = sfdisk_script();
        assert_eq!(script.lines().count(), 3 + PARTITIONS.len());
        for partition in PARTITIONS {
            let line = script.lines().find(|line| line.contains(partition.label)).unwrap();
            assert!(line.contains(partition.id), "{line}");
        }
    }
}
