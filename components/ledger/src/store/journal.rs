//! The journal as a checkpoint covers it, page by page, in the order of an export (crates/journal).
//! What was posted since is left out, so that an export is whole while the ledger goes on.

use std::collections::{BTreeSet, HashMap};

use innover_journal::{AccountLine, CheckpointLine, EndLine, EntryLine, Line, PostingLine};
use innover_kit::{
    Db, Row,
    db::{DbError, column},
    params,
};

use super::{
    entries::{entry_row, read_places},
    hash,
};
use crate::limits::JOURNAL_PAGE;

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Before the first entry.
    Start,
    /// After this entry.
    Entry(String),
    /// After this posting of this account; entries are done.
    Posting { account: String, after: i64 },
}

impl Cursor {
    /// As text, for `next_cursor`.
    pub fn encode(&self) -> String {
        match self {
            Cursor::Start => String::new(),
            Cursor::Entry(id) => format!("e {id}"),
            Cursor::Posting { account, after } => format!("p {after} {account}"),
        }
    }

    /// From text; `None` when it is none of ours.
    pub fn decode(text: &str) -> Option<Cursor> {
        match text.split_once(' ') {
            None => text.is_empty().then_some(Cursor::Start),
            Some(("e", id)) => Some(Cursor::Entry(id.to_owned())),
            Some(("p", rest)) => {
                let (number, account) = rest.split_once(' ')?;
                Some(Cursor::Posting {
                    account: account.to_owned(),
                    after: number.parse().ok()?,
                })
            }
            Some(_) => None,
        }
    }
}

/// The lines after `cursor`, and where they end; `None` after the last.
pub async fn page(
    db: &Db,
    checkpoint: &CheckpointLine,
    cursor: Cursor,
) -> Result<(Vec<Line>, Option<Cursor>), DbError> {
    let number = checkpoint.number;
    let (mut lines, after) = match cursor {
        Cursor::Start => (vec![Line::Checkpoint(checkpoint.clone())], String::new()),
        Cursor::Entry(id) => (Vec::new(), id),
        Cursor::Posting { account, after } => {
            return accounts(db, checkpoint, &account, after).await;
        }
    };
    let (entries, last) = entries(db, number, &after).await?;
    let next = match last {
        Some(id) => Cursor::Entry(id),
        None => Cursor::Posting {
            account: String::new(),
            after: 0,
        },
    };
    lines.extend(entries.into_iter().map(Line::Entry));
    Ok((lines, Some(next)))
}

/// The head an account had at checkpoint `$1`, for a join.
macro_rules! head_at {
    ($account:literal) => {
        concat!(
            "JOIN checkpoint_heads h ON h.account_no = ",
            $account,
            " AND h.number = (SELECT MAX(x.number) FROM checkpoint_heads x
                              WHERE x.account_no = ",
            $account,
            " AND x.number <= $1)"
        )
    };
}

/// The entries after `after` that the checkpoint covers, and the last one that was looked at when
/// there may be more. An entry commits as a whole, so its first posting says whether it is covered.
async fn entries(
    db: &Db,
    number: i64,
    after: &str,
) -> Result<(Vec<EntryLine>, Option<String>), DbError> {
    let rows = db
        .query(
            "SELECT id, kind, reference, reverses, metadata, created_by, created_at, postings
             FROM entries WHERE id > $1 AND postings <> '[]' ORDER BY id LIMIT $2",
            params![after, JOURNAL_PAGE],
        )
        .await?;
    let mut firsts = Vec::with_capacity(rows.len());
    for row in &rows {
        let places = read_places(row.text(7)?)?;
        let first = places.first().copied();
        firsts.push(first.ok_or_else(|| DbError::Shape("an entry without postings".into()))?);
    }
    let covered = postings_at(db, number, firsts.iter().map(|(account, _)| *account)).await?;
    let mut lines = Vec::with_capacity(rows.len());
    for (row, (account, place)) in rows.iter().zip(firsts) {
        if covered.get(&account).is_none_or(|last| place > *last) {
            continue;
        }
        let entry = entry_row(row)?;
        lines.push(EntryLine {
            hash: entry.digest(),
            id: entry.id,
            kind: entry.kind,
            reference: entry.reference,
            reverses: entry.reverses,
            metadata: entry.metadata,
            created_by: entry.created_by,
            created_at: entry.created_at,
        });
    }
    let more = (rows.len() as i64 == JOURNAL_PAGE).then(|| rows.last());
    let last = more.flatten().map(|row| row.text(0)).transpose()?;
    Ok((lines, last.map(str::to_owned)))
}

/// How many postings these accounts had at a checkpoint.
async fn postings_at(
    db: &Db,
    number: i64,
    accounts: impl Iterator<Item = i64>,
) -> Result<HashMap<i64, i64>, DbError> {
    const SQL: &str = concat!(
        "SELECT a.no, h.postings FROM rows($2: no BIGINT) a ",
        head_at!("a.no")
    );
    let unique: BTreeSet<i64> = accounts.collect();
    let rows = db.query(SQL, vec![number.into(), column(unique)]).await?;
    rows.iter()
        .map(|row| Ok((row.int(0)?, row.int(1)?)))
        .collect()
}

async fn accounts(
    db: &Db,
    checkpoint: &CheckpointLine,
    account: &str,
    after: i64,
) -> Result<(Vec<Line>, Option<Cursor>), DbError> {
    let number = checkpoint.number;
    let mut postings = postings(db, number, account, after).await?;
    let full = postings.len() as i64 == JOURNAL_PAGE;
    let mut opened = opened(db, number, account).await?;
    // Postings reach to `upper`, accounts may reach further; both are cut to what is certain.
    if let Some(upper) = postings.last().filter(|_| full).map(|p| p.account.clone()) {
        opened.retain(|a| a.id <= upper);
    }
    let more_accounts = opened.len() as i64 == JOURNAL_PAGE;
    if let Some(upper) = opened
        .last()
        .filter(|_| more_accounts)
        .map(|a| a.id.clone())
    {
        postings.retain(|p| p.account <= upper);
    }
    let last_opened = opened.last().map(|a| a.id.clone());
    let last_posting = postings.last().map(|p| (p.account.clone(), p.number));
    let mut lines = Vec::with_capacity(postings.len() + opened.len());
    let mut opened = opened.into_iter().peekable();
    for posting in postings {
        while let Some(account) = opened.next_if(|a| a.id <= posting.account) {
            lines.push(Line::Account(account));
        }
        lines.push(Line::Posting(posting));
    }
    lines.extend(opened.map(Line::Account));
    if !full && !more_accounts {
        let entries = count(db, number).await?;
        lines.push(Line::End(EndLine {
            entries,
            accounts: checkpoint.accounts,
            postings: checkpoint.postings,
        }));
        return Ok((lines, None));
    }
    // An account whose line is out and whose postings are not begun ends the page at its posting 0.
    let next = match (last_opened, last_posting) {
        (Some(opened), Some((account, after))) if account >= opened => {
            Cursor::Posting { account, after }
        }
        (Some(account), _) => Cursor::Posting { account, after: 0 },
        (None, Some((account, after))) => Cursor::Posting { account, after },
        (None, None) => return Ok((lines, None)),
    };
    Ok((lines, Some(next)))
}

/// Accounts after `after` that were there at the checkpoint.
async fn opened(db: &Db, number: i64, after: &str) -> Result<Vec<AccountLine>, DbError> {
    const SQL: &str = concat!(
        "SELECT a.id, a.code, a.name, a.currency, a.normal_side, a.floor, a.created_at, h.postings
         FROM accounts a ",
        head_at!("a.no"),
        " WHERE a.id > $2 ORDER BY a.id LIMIT $3"
    );
    let rows = db.query(SQL, params![number, after, JOURNAL_PAGE]).await?;
    let read = |row: &Row| {
        let seal = innover_journal::AccountSeal {
            id: row.text(0)?,
            code: row.text(1)?,
            name: row.text(2)?,
            currency: row.text(3)?,
            normal_side: row.text(4)?,
            floor: row.opt_int(5)?,
            created_at: row.int(6)?,
        };
        Ok(AccountLine {
            id: seal.id.to_owned(),
            code: seal.code.to_owned(),
            name: seal.name.to_owned(),
            currency: seal.currency.to_owned(),
            normal_side: seal.normal_side.to_owned(),
            floor: seal.floor,
            created_at: seal.created_at,
            postings: row.int(7)?,
            hash: seal.hash(),
        })
    };
    rows.iter().map(read).collect()
}

async fn postings(
    db: &Db,
    number: i64,
    account: &str,
    after: i64,
) -> Result<Vec<PostingLine>, DbError> {
    const SQL: &str = concat!(
        "SELECT a.id, p.number, p.entry_id, p.position, p.direction, p.amount, p.balance_after,
                p.hash
         FROM accounts a ",
        head_at!("a.no"),
        " JOIN postings p ON p.account_no = a.no AND p.number <= h.postings
         WHERE a.id >= $2 AND (a.id > $2 OR p.number > $3)
         ORDER BY a.id, p.number LIMIT $4"
    );
    let rows = db
        .query(SQL, params![number, account, after, JOURNAL_PAGE])
        .await?;
    let read = |row: &Row| {
        Ok(PostingLine {
            account: row.text(0)?.to_owned(),
            number: row.int(1)?,
            entry_id: row.text(2)?.to_owned(),
            position: row.int(3)?,
            direction: row.text(4)?.to_owned(),
            amount: row.int(5)?,
            balance_after: row.int(6)?,
            hash: hash(row.text(7)?)?,
        })
    };
    rows.iter().map(read).collect()
}

async fn count(db: &Db, number: i64) -> Result<i64, DbError> {
    const SQL: &str = concat!(
        "SELECT COUNT(*) FROM postings p ",
        head_at!("p.account_no"),
        " WHERE p.position = 0 AND p.number <= h.postings"
    );
    let rows = db.query(SQL, params![number]).await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}
