//! The HTTP surface as callers see it: through `serve`, with service tokens, on a real database.

mod accounts;
mod deliveries;
mod entries;
mod support;
