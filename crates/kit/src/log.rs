//! JSON lines on standard output; the host adds nothing but passes them on.

use serde_json::{Map, Value};

use crate::Cx;

/// Writes one line: level, service, request id, trace id, message and the fields given.
/// Fields never hold tokens, keys or personal data.
pub fn write(level: &str, cx: &Cx, message: &str, fields: &[(&str, Value)]) {
    let mut line = Map::new();
    let now = innover_contract::time::rfc3339(crate::ids::now_us());
    line.insert("ts".into(), now.into());
    line.insert("level".into(), level.into());
    line.insert("service_name".into(), cx.service().into());
    line.insert("request_id".into(), cx.request_id().into());
    line.insert("trace_id".into(), cx.trace().trace_id().into());
    line.insert("msg".into(), message.into());
    for (name, value) in fields {
        line.insert((*name).into(), value.clone());
    }
    println!("{}", Value::Object(line));
}

/// Something an operator should look at.
pub fn error(cx: &Cx, message: &str, fields: &[(&str, Value)]) {
    write("error", cx, message, fields);
}

/// Something unusual that was handled.
pub fn warn(cx: &Cx, message: &str, fields: &[(&str, Value)]) {
    write("warn", cx, message, fields);
}

/// Something worth knowing.
pub fn info(cx: &Cx, message: &str, fields: &[(&str, Value)]) {
    write("info", cx, message, fields);
}
