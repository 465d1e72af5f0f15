//! What is kept of an event, and how rows are sealed. Pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Names what is hashed, so that no other record of ours has the bytes of one of these.
const KIND: &str = "innover/audit/1";

/// The end of the trail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The last row's number; 0 when there is none.
    pub seq: i64,
    /// Its hash, 64 hex digits; empty when there is none.
    pub hash: String,
}

/// What is kept of an event. As one line of an export it holds all that its hash needs but the hash
/// of the row before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1 and up, without holes.
    pub seq: i64,
    pub event_id: String,
    /// `/innover/<service>`.
    pub source: String,
    /// The event's type.
    pub action: String,
    /// The aggregate's id.
    pub subject: String,
    /// On whose request; empty when nobody asked.
    pub actor: String,
    /// Microseconds since the epoch.
    pub occurred_at: i64,
    /// Microseconds since the epoch.
    pub recorded_at: i64,
    pub correlation_id: String,
    pub trace_id: String,
    /// The payload: JSON text.
    pub data: String,
    pub hash: String,
}

impl Record {
    /// SHA-256 over the fields in order, then the hash of the row before, each as UTF-8 text (numbers
    /// in decimal) behind its length in eight bytes, the most significant first.
    pub fn seal(&self, previous: &str) -> String {
        let (seq, occurred_at, recorded_at) = (
            self.seq.to_string(),
            self.occurred_at.to_string(),
            self.recorded_at.to_string(),
        );
        let fields = [
            KIND,
            &seq,
            &self.event_id,
            &self.source,
            &self.action,
            &self.subject,
            &self.actor,
            &occurred_at,
            &recorded_at,
            &self.correlation_id,
            &self.trace_id,
            &self.data,
            previous,
        ];
        let mut hash = Sha256::new();
        for field in fields {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
        hex(&hash.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Numbers and seals `records` behind `head`; returns the new head.
pub fn append(mut head: Head, records: &mut [Record]) -> Head {
    for record in records {
        record.seq = head.seq + 1;
        record.hash = record.seal(&head.hash);
        head = Head {
            seq: record.seq,
            hash: record.hash.clone(),
        };
    }
    head
}

/// The first row that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {seq}: {what}")]
pub struct Fault {
    pub seq: i64,
    pub what: String,
}

/// Follows `record` behind `head`, which is good.
///
/// # Errors
/// The row is changed, or rows before it are missing.
pub fn follow(head: &Head, record: &Record) -> Result<Head, Fault> {
    let seq = head.seq + 1;
    if record.seq != seq {
        let what = format!("it is missing; the next one there is {}", record.seq);
        return Err(Fault { seq, what });
    }
    if record.seal(&head.hash) != record.hash {
        let what = "it, or the hash of the row before it, was changed".into();
        return Err(Fault { seq, what });
    }
    Ok(Head {
        seq,
        hash: record.hash.clone(),
    })
}

/// Whether the chain that was followed to its last row ends where it should.
///
/// # Errors
/// Rows behind `last` are missing, or the head was changed.
pub fn ends(last: &Head, head: &Head) -> Result<(), Fault> {
    let seq = last.seq + 1;
    match (last == head, last.seq < head.seq) {
        (true, _) => Ok(()),
        (_, true) => Err(Fault {
            seq,
            what: format!("it and what follows up to {} are missing", head.seq),
        }),
        _ => Err(Fault {
            seq: last.seq,
            what: "the head of the trail is not this row".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(n: i64) -> Record {
        Record {
            seq: 0,
            event_id: format!("event-{n}"),
            source: "/innover/payment".into(),
            action: "payment.completed".into(),
            subject: format!("pay_{}", n % 3),
            actor: "usr_1".into(),
            occurred_at: 1_000 + n,
            recorded_at: 2_000 + n,
            correlation_id: "req".into(),
            trace_id: "4bf9".into(),
            data: format!(r#"{{"n":{n}}}"#),
            hash: String::new(),
        }
    }

    fn trail(rows: i64) -> (Vec<Record>, Head) {
        let mut records: Vec<Record> = (0..rows).map(record).collect();
        let head = append(Head::default(), &mut records);
        (records, head)
    }

    fn verify(records: &[Record], head: &Head) -> Result<(), Fault> {
        let last = records
            .iter()
            .try_fold(Head::default(), |head, record| follow(&head, record))?;
        ends(&last, head)
    }

    #[test]
    fn a_seal_is_what_the_documentation_says() {
        // As tools/audit-verify computes it.
        let mut records = [record(1)];
        append(Head::default(), &mut records);
        assert_eq!(
            records[0].hash,
            "fe18a1c90e37658d2a94b669b56c6352da4e1a6249b7d51e934ab3dcac243cbf"
        );
    }

    #[test]
    fn appends_in_any_portions_make_one_chain() {
        let (whole, end) = trail(7);
        let mut head = Head::default();
        let mut parts = Vec::new();
        for portion in [0..1, 1..1, 1..5, 5..7] {
            let mut records: Vec<Record> = portion.map(record).collect();
            head = append(head, &mut records);
            parts.extend(records);
        }
        assert_eq!((parts, head), (whole, end));
    }

    proptest! {
        #[test]
        fn a_change_of_any_field_of_any_row_is_found_at_that_row(at in 0usize..20, field in 0usize..11) {
            let (mut records, head) = trail(20);
            let row = &mut records[at];
            match field {
                0 => row.event_id.push('x'),
                1 => row.source.push('x'),
                2 => row.action.push('x'),
                3 => row.subject.push('x'),
                4 => row.actor.clear(),
                5 => row.occurred_at += 1,
                6 => row.recorded_at -= 1,
                7 => row.correlation_id.push('x'),
                8 => row.trace_id.push('x'),
                9 => row.data.push(' '),
                _ => row.hash.replace_range(0..1, if row.hash.starts_with('0') { "1" } else { "0" }),
            }
            let fault = verify(&records, &head).expect_err("found");
            prop_assert_eq!(fault.seq, at as i64 + 1);
        }

        #[test]
        fn a_row_that_is_missing_moved_or_put_in_is_found(at in 0usize..19) {
            let (records, head) = trail(20);
            let mut cut = records.clone();
            cut.remove(at);
            prop_assert_eq!(verify(&cut, &head).expect_err("missing").seq, at as i64 + 1);
            let mut swapped = records.clone();
            swapped.swap(at, at + 1);
            prop_assert_eq!(verify(&swapped, &head).expect_err("swapped").seq, at as i64 + 1);
            let mut moved = records.clone();
            (moved[at].data, moved[at + 1].data) = (records[at + 1].data.clone(), records[at].data.clone());
            prop_assert_eq!(verify(&moved, &head).expect_err("exchanged").seq, at as i64 + 1);
            prop_assert_eq!(verify(&records[..at], &head).expect_err("cut off").seq, at as i64 + 1);
            let mut more = records.clone();
            let next = Head { seq: 20, hash: records[19].hash.clone() };
            append(next, &mut more[19..]);
            more.splice(19..19, [records[19].clone()]);
            prop_assert_eq!(verify(&more, &head).expect_err("one too many").seq, 21);
        }
    }
}
