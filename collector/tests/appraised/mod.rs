//! What sinks are sent, taken at the far side and judged there by the verifier's library.

mod drops;
mod formats;
mod names;
mod node;
mod tls;
