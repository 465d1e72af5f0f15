//! See `src/kafka/leaders.rs`. Whoever links the bridge needs the same line.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--wrap=rd_kafka_metadata_update_op");
}
