//! What binds a checkpoint to the boot: the key that signs it ([`key`]), and the entry of the measurement
//! list by which IMA vouches for its file ([`ima`]).
//!
//! Promise: another anchor is a file beside [`ima`]; nothing here knows what a checkpoint states. Not here:
//! what is sealed and when (see [`crate::pipeline`]), who asks for it (see [`crate::engine`]).

pub mod ima;
pub mod key;
