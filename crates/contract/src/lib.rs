//! What guests and native code must agree on, and nothing else: event and job envelopes, the
//! answers to a delivery, service tokens and the keys behind them, and the list of problem codes.
//!
//! Pure: no I/O and no clock. Callers pass the time in.
#![warn(missing_docs)]

pub mod event;
pub mod job;
pub mod keyring;
pub mod limits;
pub mod problem;
pub mod service_token;
pub mod time;
pub mod trace;

pub use event::{Event, EventAnswer, EventAnswers};
pub use job::{Job, JobAnswer, JobAnswers};
pub use keyring::Keyring;
pub use problem::{Code, Problem};
pub use service_token::{Identity, ServiceClaims};
pub use trace::TraceParent;
