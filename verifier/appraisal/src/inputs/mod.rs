//! What rules look at beside the policy: the question, the round, the list as it is decoded, what earlier
//! rounds left.

pub(crate) mod collateral;
pub(crate) mod context;
pub(crate) mod decoded;
pub(crate) mod kept;
pub(crate) mod key_pem;
pub(crate) mod round;
