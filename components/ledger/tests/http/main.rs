//! The HTTP surface as callers see it: through `serve`, with service tokens, on a real database.

mod accounts;
mod checkpoints;
mod deliveries;
mod entries;
mod support;
