//! What the tests of one kernel share: gathered once in a guest, whichever test comes first.
//!
//! Not here: what is gathered.

use anyhow::Result;
use std::sync::OnceLock;
use vm_tests::Stock;

/// Facts of each kernel.
pub struct PerKernel<T> {
    of_6_12: OnceLock<Result<T>>,
    of_6_1: OnceLock<Result<T>>,
    of_7_3: OnceLock<Result<T>>,
}

impl<T> PerKernel<T> {
    pub const fn new() -> PerKernel<T> {
        PerKernel {
            of_6_12: OnceLock::new(),
            of_6_1: OnceLock::new(),
            of_7_3: OnceLock::new(),
        }
    }

    /// The facts of one kernel; what went wrong while they were gathered is reported to every test.
    pub fn of(&self, stock: Stock, gather: impl FnOnce(Stock) -> Result<T>) -> &T {
        let facts = match stock {
            Stock::V6_12 => &self.of_6_12,
            Stock::V6_1 => &self.of_6_1,
            Stock::V7_3 => &self.of_7_3,
        };
        let gathered = facts.get_or_init(|| gather(stock));
        gathered.as_ref().unwrap_or_else(|error| panic!("{error:#}"))
    }
}
