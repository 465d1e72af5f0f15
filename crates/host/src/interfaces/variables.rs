//! `spin:variables@3.0.0`: what the manifest's `[component.<id>.variables]` gives the component,
//! resolved when the host starts.

use wasmtime::component::{HasSelf, Linker};

use super::Interface;
use crate::bindings::imports::spin::variables::variables;
use crate::guest::Guest;

pub(crate) struct Variables;

impl Interface for Variables {
    fn imports(&self) -> &'static [&'static str] {
        &["spin:variables/variables@3"]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        variables::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
    }
}

impl variables::Host for Guest {}

impl<T> variables::HostWithStore<T> for HasSelf<Guest> {
    async fn get(
        accessor: &wasmtime::component::Accessor<T, Self>,
        name: String,
    ) -> wasmtime::Result<Result<String, variables::Error>> {
        Ok(accessor.with(|mut access| {
            let values = &access.get().app().variables;
            match values.get(&name) {
                Some(value) => Ok(value.clone()),
                None if is_name(&name) => Err(variables::Error::Undefined(format!(
                    "no variable for \"{name}\""
                ))),
                None => Err(variables::Error::InvalidName(name)),
            }
        }))
    }
}

/// Spin's rule for variable names: lower snake case, starting with a letter.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
