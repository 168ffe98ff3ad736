//! Where events come from: the measurement list, /proc, the cgroup hierarchy.

pub mod boot_facts;
pub mod cgroups;
pub mod list;
pub mod processes;
pub mod system;
