//! Verifies an export with nothing but a public key.

use std::{collections::HashMap, fmt};

use crate::{
    AccountLine, CheckpointLine, EndLine, EntryLine, HEADER, Hash, Head, Line, PostingLine,
    PublicKey, checkpoint,
};

/// Where an export is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    /// Its line, from 1.
    pub line: usize,
    /// For a person.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// What a good export holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The checkpoint's number.
    pub checkpoint: i64,
    /// When it was made, in microseconds since the epoch.
    pub created_at: i64,
    pub entries: usize,
    pub accounts: usize,
    pub postings: i64,
}

/// Reads an export line by line.
pub struct Verifier {
    key: PublicKey,
    /// Lines read.
    lines: usize,
    stage: Stage,
    checkpoint: Option<CheckpointLine>,
    entries: HashMap<String, Entry>,
    last_entry: String,
    account: Option<Account>,
    /// Complete accounts, in the order of their ids.
    heads: Vec<(String, i64, Hash)>,
    postings: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Checkpoint,
    Entries,
    Accounts,
    Done,
}

struct Entry {
    line: usize,
    hash: Hash,
    /// A bit for each place of the entry that has its posting; an entry has 64 at most.
    positions: u64,
    /// Debits less credits, per currency.
    sums: Vec<(String, i128)>,
}

struct Account {
    line: usize,
    opened: AccountLine,
    number: i64,
    balance: i64,
    head: Hash,
}

/// Verifies a whole export.
pub fn verify(export: &str, key: PublicKey) -> Result<Summary, Fault> {
    let mut verifier = Verifier::new(key);
    for line in export.split_inclusive('\n') {
        verifier.read(line)?;
    }
    verifier.finish()
}

impl Verifier {
    pub fn new(key: PublicKey) -> Verifier {
        Verifier {
            key,
            lines: 0,
            stage: Stage::Header,
            checkpoint: None,
            entries: HashMap::new(),
            last_entry: String::new(),
            account: None,
            heads: Vec::new(),
            postings: 0,
        }
    }

    /// Reads the next line, its line feed included.
    pub fn read(&mut self, text: &str) -> Result<(), Fault> {
        let line = self.check(text)?;
        self.take(line);
        Ok(())
    }

    /// The line, when it may follow those read so far; `None` is the header.
    pub fn check(&self, text: &str) -> Result<Option<Line>, Fault> {
        self.checked(text).map_err(|what| Fault {
            line: self.lines + 1,
            what,
        })
    }

    fn checked(&self, text: &str) -> Result<Option<Line>, String> {
        let text = text
            .strip_suffix('\n')
            .ok_or("the line does not end: the file is cut off")?;
        if self.stage == Stage::Header {
            return match text == HEADER {
                true => Ok(None),
                false => Err("this is no journal of version 1".into()),
            };
        }
        let line: Line = serde_json::from_str(text).map_err(|e| format!("no record: {e}"))?;
        // Else bytes that are no part of any record could change unseen.
        if serde_json::to_string(&line).ok().as_deref() != Some(text) {
            return Err("the record is not written in its one form".into());
        }
        match (&line, self.stage) {
            (Line::Checkpoint(line), Stage::Checkpoint) => self.checkpoint(line),
            (Line::Entry(line), Stage::Entries) => self.entry(line),
            (Line::Account(line), Stage::Entries | Stage::Accounts) => self.account(line),
            (Line::Posting(line), Stage::Accounts) => self.posting(line),
            (Line::End(line), Stage::Entries | Stage::Accounts) => self.end(line),
            (_, Stage::Done) => Err("there is more after the end".into()),
            _ => Err("the record is out of its place".into()),
        }?;
        Ok(Some(line))
    }

    /// Takes over what [`Verifier::check`] returned.
    pub fn take(&mut self, line: Option<Line>) {
        self.lines += 1;
        match line {
            None => self.stage = Stage::Checkpoint,
            Some(Line::Checkpoint(line)) => {
                self.stage = Stage::Entries;
                self.checkpoint = Some(line);
            }
            Some(Line::Entry(line)) => self.take_entry(line),
            Some(Line::Account(line)) => {
                self.stage = Stage::Accounts;
                self.close_account();
                self.account = Some(Account {
                    line: self.lines,
                    number: 0,
                    balance: 0,
                    head: line.hash,
                    opened: line,
                });
            }
            Some(Line::Posting(line)) => self.take_posting(&line),
            Some(Line::End(_)) => {
                self.close_account();
                self.stage = Stage::Done;
            }
        }
    }

    /// The end of the file.
    pub fn finish(self) -> Result<Summary, Fault> {
        let cut = || Fault {
            line: self.lines + 1,
            what: "the file is cut off: it does not end with its counts".into(),
        };
        match (self.stage, &self.checkpoint) {
            (Stage::Done, Some(checkpoint)) => Ok(Summary {
                checkpoint: checkpoint.number,
                created_at: checkpoint.created_at,
                entries: self.entries.len(),
                accounts: self.heads.len(),
                postings: self.postings,
            }),
            _ => Err(cut()),
        }
    }

    fn checkpoint(&self, line: &CheckpointLine) -> Result<(), String> {
        let signature = from_hex(&line.signature).ok_or("the signature is not 128 hex digits")?;
        match self.key.verifies(&line.statement(), &signature) {
            true => Ok(()),
            false => Err(format!(
                "checkpoint {} was not signed by this key",
                line.number
            )),
        }
    }

    fn entry(&self, line: &EntryLine) -> Result<(), String> {
        if line.id <= self.last_entry {
            return Err(format!("entry {} is out of order", line.id));
        }
        if line.seal().hash() != line.hash {
            return Err(format!("entry {} was changed", line.id));
        }
        Ok(())
    }

    fn take_entry(&mut self, line: EntryLine) {
        self.last_entry.clone_from(&line.id);
        self.entries.insert(
            line.id,
            Entry {
                line: self.lines,
                hash: line.hash,
                positions: 0,
                sums: Vec::new(),
            },
        );
    }

    fn account(&self, line: &AccountLine) -> Result<(), String> {
        self.account_is_complete()?;
        let before = self.account.as_ref().map_or("", |a| a.opened.id.as_str());
        if line.id.as_str() <= before {
            return Err(format!("account {} is out of order", line.id));
        }
        if line.seal().hash() != line.hash {
            return Err(format!("account {} was changed", line.id));
        }
        Ok(())
    }

    fn account_is_complete(&self) -> Result<(), String> {
        match &self.account {
            Some(account) if account.number != account.opened.postings => Err(format!(
                "account {} (line {}) says {} postings, there are {}",
                account.opened.id, account.line, account.opened.postings, account.number
            )),
            _ => Ok(()),
        }
    }

    fn close_account(&mut self) {
        if let Some(account) = self.account.take() {
            self.heads
                .push((account.opened.id, account.number, account.head));
        }
    }

    fn posting(&self, line: &PostingLine) -> Result<(), String> {
        let at = format!("posting {} of account {}", line.number, line.account);
        let account = match &self.account {
            Some(account) if account.opened.id == line.account => account,
            _ => return Err(format!("{at} stands under another account")),
        };
        if line.number != account.number + 1 {
            return Err(format!(
                "{at} follows posting {}: one is missing or moved",
                account.number
            ));
        }
        let entry = self
            .entries
            .get(&line.entry_id)
            .ok_or_else(|| format!("{at} is of an entry that is missing, {}", line.entry_id))?;
        if !(0..64).contains(&line.position) || entry.positions & 1 << line.position != 0 {
            return Err(format!(
                "{at} takes place {} of entry {}, which is taken",
                line.position, line.entry_id
            ));
        }
        if line.amount <= 0 || balance(account, line) != Some(line.balance_after) {
            return Err(format!("{at} does not lead to the balance it states"));
        }
        if line.seal().hash(&entry.hash, &account.head) != line.hash {
            return Err(format!("{at} was changed, or what it follows was"));
        }
        Ok(())
    }

    fn take_posting(&mut self, line: &PostingLine) {
        let Some(account) = &mut self.account else {
            return;
        };
        account.number = line.number;
        account.balance = line.balance_after;
        account.head = line.hash;
        self.postings += 1;
        let Some(entry) = self.entries.get_mut(&line.entry_id) else {
            return;
        };
        entry.positions |= 1 << line.position;
        let amount = match line.direction.as_str() {
            "debit" => i128::from(line.amount),
            _ => -i128::from(line.amount),
        };
        let currency = &account.opened.currency;
        match entry.sums.iter_mut().find(|(known, _)| known == currency) {
            Some((_, sum)) => *sum += amount,
            None => entry.sums.push((currency.clone(), amount)),
        }
    }

    fn end(&self, line: &EndLine) -> Result<(), String> {
        self.account_is_complete()?;
        let accounts = self.heads.len() as i64 + i64::from(self.account.is_some());
        let found = EndLine {
            entries: self.entries.len() as i64,
            accounts,
            postings: self.postings,
        };
        if *line != found {
            return Err(format!(
                "there are {} entries, {} accounts and {} postings, the end says {}, {} and {}",
                found.entries,
                found.accounts,
                found.postings,
                line.entries,
                line.accounts,
                line.postings
            ));
        }
        // The first in the file, so that the same file always says the same.
        let mut broken: Vec<(&String, &Entry)> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.is_whole())
            .collect();
        broken.sort_by_key(|(_, entry)| entry.line);
        if let Some((id, entry)) = broken.first() {
            return Err(format!(
                "entry {id} (line {}) lacks postings or does not balance",
                entry.line
            ));
        }
        let last = self
            .account
            .iter()
            .map(|a| (a.opened.id.as_str(), a.number, a.head));
        let heads = self.heads.iter().map(|(id, v, h)| (id.as_str(), *v, *h));
        let heads = heads.chain(last).map(|(account, postings, hash)| Head {
            account,
            postings,
            hash,
        });
        let signed = self.checkpoint.as_ref();
        let matches = signed.is_some_and(|c| {
            c.accounts == accounts
                && c.postings == self.postings
                && c.root == checkpoint::root(heads)
        });
        match matches {
            true => Ok(()),
            false => Err(
                "the accounts are not those that were signed: one is missing, new, or from another time"
                    .into(),
            ),
        }
    }
}

impl Entry {
    /// All of its places from the first on are taken, two at least, and it balances.
    fn is_whole(&self) -> bool {
        let without_gaps = self.positions & self.positions.wrapping_add(1) == 0;
        without_gaps && self.positions >= 0b11 && self.sums.iter().all(|(_, sum)| *sum == 0)
    }
}

/// What the account has posted after `line`, on its normal side; `None` when that does not fit or
/// the line has no direction.
fn balance(account: &Account, line: &PostingLine) -> Option<i64> {
    if !matches!(line.direction.as_str(), "debit" | "credit") {
        return None;
    }
    match line.direction == account.opened.normal_side {
        true => account.balance.checked_add(line.amount),
        false => account.balance.checked_sub(line.amount),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 128 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    (0..64)
        .map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok())
        .collect()
}
