//! What tests of several subjects need.

pub mod assembled;
pub mod machine;
pub mod sink;
pub mod swtpm;
