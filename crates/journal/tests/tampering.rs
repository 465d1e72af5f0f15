//! Whatever is done to an export is found, and the place is named.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use innover_journal::{
    AccountLine, CheckpointLine, EndLine, EntryLine, HEADER, Head, Line, PostingLine, PublicKey,
    SigningKey, Statement, Summary, Verifier, root, verify,
};
use proptest::prelude::*;

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

/// Numbers that look random and are the same in every run.
struct Mix(u64);

impl Mix {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// An export of `entries` two-posting entries over `accounts` accounts.
fn export(entries: usize, accounts: usize) -> String {
    let mut mix = Mix(entries as u64);
    let mut books: Vec<(AccountLine, i64, Vec<PostingLine>)> = (0..accounts)
        .map(|n| {
            let mut line = AccountLine {
                id: format!("acc_{n:06}"),
                code: "wallet".into(),
                name: format!("Wallet \"{n}\" ü"),
                currency: "EUR".into(),
                normal_side: if n % 3 == 0 { "debit" } else { "credit" }.into(),
                floor: (n % 2 == 0).then_some(-1_000_000_000),
                created_at: 1_700_000_000_000_000 + n as i64,
                postings: 0,
                hash: root([]),
            };
            line.hash = line.seal().hash();
            (line, 0, Vec::new())
        })
        .collect();
    let mut lines = Vec::new();
    for n in 0..entries {
        let mut entry = EntryLine {
            id: format!("ent_{n:08}"),
            kind: "payment".into(),
            reference: format!("order {n}"),
            reverses: None,
            metadata: "{}".into(),
            created_by: "usr_finance".into(),
            created_at: 1_700_000_100_000_000 + n as i64,
            hash: root([]),
        };
        entry.hash = entry.seal().hash();
        let from = mix.below(accounts);
        let to = (from + 1 + mix.below(accounts - 1)) % accounts;
        let amount = 1 + mix.below(100_000) as i64;
        for (position, at, direction) in [(0, from, "debit"), (1, to, "credit")] {
            let (account, balance, postings) = &mut books[at];
            *balance += if account.normal_side == direction {
                amount
            } else {
                -amount
            };
            let head = postings.last().map_or(account.hash, |p| p.hash);
            let mut posting = PostingLine {
                account: account.id.clone(),
                number: postings.len() as i64 + 1,
                entry_id: entry.id.clone(),
                position,
                direction: direction.into(),
                amount,
                balance_after: *balance,
                hash: head,
            };
            posting.hash = posting.seal().hash(&entry.hash, &head);
            postings.push(posting);
        }
        lines.push(Line::Entry(entry));
    }
    let mut heads = Vec::new();
    for (mut account, _, postings) in books {
        account.postings = postings.len() as i64;
        let head = postings.last().map_or(account.hash, |p| p.hash);
        heads.push((account.id.clone(), account.postings, head));
        lines.push(Line::Account(account));
        lines.extend(postings.into_iter().map(Line::Posting));
    }
    let heads = heads.iter().map(|(account, version, hash)| Head {
        account,
        postings: *version,
        hash: *hash,
    });
    let statement = Statement {
        number: 3,
        created_at: 1_700_000_200_000_000,
        accounts: accounts as i64,
        postings: 2 * entries as i64,
        root: root(heads),
        previous: Some(root([])),
    };
    let signature = key().sign(&statement);
    let checkpoint = Line::Checkpoint(CheckpointLine {
        number: statement.number,
        created_at: statement.created_at,
        accounts: statement.accounts,
        postings: statement.postings,
        root: statement.root,
        previous: statement.previous,
        signature: signature.iter().map(|b| format!("{b:02x}")).collect(),
    });
    let end = Line::End(EndLine {
        entries: entries as i64,
        accounts: accounts as i64,
        postings: 2 * entries as i64,
    });
    let records = [checkpoint].into_iter().chain(lines).chain([end]);
    let records = records.map(|line| serde_json::to_string(&line).unwrap());
    let mut text: String = [HEADER.to_owned()]
        .into_iter()
        .chain(records)
        .collect::<Vec<_>>()
        .join("\n");
    text.push('\n');
    text
}

fn good(text: &str) -> Summary {
    verify(text, key().public()).unwrap()
}

#[test]
fn a_good_export_is_good_for_its_key_only() {
    let text = export(50, 7);
    let summary = good(&text);
    assert_eq!(
        (summary.entries, summary.accounts, summary.postings),
        (50, 7, 100)
    );
    assert_eq!(summary.checkpoint, 3);
    let other = SigningKey::from_seed(&[8; 32]).unwrap().public();
    let fault = verify(&text, other).unwrap_err();
    assert_eq!(fault.line, 2);
    assert_eq!(good(&export(0, 1)).postings, 0);
    assert_eq!(
        PublicKey::from_bytes(key().public().as_bytes()),
        Some(key().public())
    );
}

/// Every byte of a journal of 10,000 postings, changed in three ways (the lowest bit, the case bit,
/// to a space). Nearly all are found on their own line, where trying costs one record; what only
/// shows later is tried on the whole file.
#[test]
fn every_changed_byte_of_ten_thousand_postings_is_found() {
    let text = export(5_000, 101);
    let (mut verifier, mut later) = (Verifier::new(key().public()), Vec::new());
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let mut bytes = line.as_bytes().to_vec();
        for at in 0..bytes.len() {
            let old = bytes[at];
            for new in [old ^ 1, old ^ 0x20, b' '] {
                if new == old {
                    continue;
                }
                bytes[at] = new;
                // What is no UTF-8 is no text and is refused before it gets here.
                if let Ok(changed) = std::str::from_utf8(&bytes)
                    && !changed[..changed.len() - 1].contains('\n')
                    && verifier.check(changed).is_ok()
                {
                    later.push((offset + at, new));
                }
            }
            bytes[at] = old;
        }
        verifier.read(line).unwrap();
        offset += line.len();
    }
    verifier.finish().unwrap();
    // How many postings an account says it has shows when they end.
    assert!(later.len() < 1_500, "{}", later.len());
    for (at, new) in later {
        let mut bytes = text.clone().into_bytes();
        bytes[at] = new;
        let changed = String::from_utf8(bytes).unwrap();
        assert!(
            verify(&changed, key().public()).is_err(),
            "byte {at} as {new}"
        );
    }
}

#[test]
fn every_line_taken_out_doubled_or_swapped_and_every_cut_is_found() {
    let text = export(24, 4);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let bad = |lines: &[&str], what: String| {
        let fault = verify(&lines.concat(), key().public()).expect_err(&what);
        assert!(fault.line <= lines.len() + 1, "{what}: {fault}");
    };
    for at in 0..lines.len() {
        let mut without = lines.clone();
        let line = without.remove(at);
        bad(&without, format!("without line {}", at + 1));
        let mut twice = lines.clone();
        twice.insert(at, line);
        bad(&twice, format!("line {} twice", at + 1));
        bad(&lines[..at], format!("cut before line {}", at + 1));
        for other in at + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(at, other);
            bad(
                &swapped,
                format!("lines {} and {} swapped", at + 1, other + 1),
            );
        }
    }
    for cut in 0..text.len() {
        if let Some(start) = text.get(..cut) {
            assert!(verify(start, key().public()).is_err(), "cut at byte {cut}");
        }
    }
}

#[test]
fn whoever_rewrites_the_chain_as_well_meets_the_signature() {
    // All of one account's postings fall away, with their entries and every count put right: each
    // chain is whole, and the books even balance.
    let whole = export(40, 6);
    let fewer = export(30, 6);
    let signed = whole.split_inclusive('\n').nth(1).unwrap();
    let forged: String = fewer
        .split_inclusive('\n')
        .enumerate()
        .map(|(n, line)| if n == 1 { signed } else { line })
        .collect();
    let fault = verify(&forged, key().public()).unwrap_err();
    assert!(fault.what.contains("not those that were signed"), "{fault}");
}

proptest! {
    /// Random damage of several bytes anywhere.
    #[test]
    fn damage_is_found(at in 0usize..20_000, bytes in proptest::collection::vec(any::<u8>(), 1..9)) {
        let text = export(40, 6);
        let mut damaged = text.clone().into_bytes();
        let at = at % (damaged.len() - bytes.len());
        damaged[at..at + bytes.len()].copy_from_slice(&bytes);
        prop_assume!(damaged != text.as_bytes());
        let found = String::from_utf8(damaged).map_or(true, |t| verify(&t, key().public()).is_err());
        prop_assert!(found);
    }
}
