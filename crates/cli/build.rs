//! See `crates/bridge/src/kafka/leaders.rs`. Whoever links the bridge needs the same line. Linkers of other
//! systems have no such option, and librdkafka is left as it is there.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-link-arg=-Wl,--wrap=rd_kafka_metadata_update_op");
    }
}
