//! Keeps librdkafka from a piece of memory that it has not written.
//!
//! A broker that has lost partitions names their new leaders beside its refusal (KIP-951), or says
//! that there is none (-1). librdkafka counts the latter among what it passes on, fills in nothing for
//! them, and takes what was in memory there as a partition's number, with which it writes to a table:
//! the process ends, or worse (<https://github.com/confluentinc/librdkafka/issues/5280>, open in
//! 2.12.1). A Kafka that has just started is such a broker.
//!
//! So the named leaders are left out. They are a shortcut: the refusal itself has the client ask for
//! the topic's leaders, as it did before there was one.

use std::ffi::{c_int, c_void};

use rdkafka::bindings::rd_kafka_metadata_t;

// `build.rs` has the linker give librdkafka the function below in place of this one; without that,
// nothing named so exists and nothing links.
unsafe extern "C" {
    fn __real_rd_kafka_metadata_update_op(
        client: *mut c_void,
        told: *mut rd_kafka_metadata_t,
    ) -> c_int;
}

/// What librdkafka calls with what a broker has told. The brokers it named are taken over.
///
/// # Safety
/// Only librdkafka calls it: `told` is its own, on its thread, and begins with the public part.
#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_rd_kafka_metadata_update_op(
    client: *mut c_void,
    told: *mut rd_kafka_metadata_t,
) -> c_int {
    // SAFETY: as the caller's; none of the topics is looked at then.
    unsafe {
        (*told).topic_cnt = 0;
        __real_rd_kafka_metadata_update_op(client, told)
    }
}
