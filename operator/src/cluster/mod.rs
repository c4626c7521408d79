//! The API server: what is watched, what a consumer's objects are, what is written to them. What they should be is
//! decided in `pass`.

pub mod apply;
pub mod children;
pub mod configs;
pub mod contest;
pub mod difference;
pub mod events;
pub mod refusal;
pub mod schema;
pub mod watch;
pub mod watches;
pub mod written;
