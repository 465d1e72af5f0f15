//! Rust types and traits generated from `wit/`.

#![allow(missing_docs)]

/// What guests import; each interface is implemented in `interfaces/`.
pub(crate) mod imports {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "innover:host/imports",
        imports: { default: async | trappable },
        with: {
            "spin:sqlite/sqlite.connection": crate::interfaces::sqlite::Connection,
            "spin:key-value/key-value.store": crate::interfaces::key_value::Store,
            "spin:redis/redis.connection": crate::interfaces::redis::Connection,
            "spin:postgres/postgres.connection": crate::interfaces::postgres::Connection,
            "spin:postgres/postgres.connection-builder": crate::interfaces::postgres::ConnectionBuilder,
        },
    });
}

/// What a component with a Redis trigger exports.
pub(crate) mod subscriber {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "innover:host/redis-subscriber",
        exports: { default: async },
        with: {
            "spin:redis/redis": crate::bindings::imports::spin::redis::redis,
        },
    });
}
