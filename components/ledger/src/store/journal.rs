//! The journal as a checkpoint covers it, page by page, in the order of an export (crates/journal).
//! What was posted since is left out, so that an export is whole while the ledger goes on.

use innover_journal::{AccountLine, CheckpointLine, EndLine, EntryLine, Line, PostingLine};
use innover_kit::{Db, Row, db::DbError, params};

use crate::{limits::JOURNAL_PAGE, store};

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Before the first entry.
    Start,
    /// After this entry.
    Entry(String),
    /// After this posting of this account; entries are done.
    Posting { account: String, version: i64 },
}

impl Cursor {
    /// As text, for `next_cursor`.
    pub fn encode(&self) -> String {
        match self {
            Cursor::Start => String::new(),
            Cursor::Entry(id) => format!("e {id}"),
            Cursor::Posting { account, version } => format!("p {version} {account}"),
        }
    }

    /// From text; `None` when it is none of ours.
    pub fn decode(text: &str) -> Option<Cursor> {
        match text.split_once(' ') {
            None => text.is_empty().then_some(Cursor::Start),
            Some(("e", id)) => Some(Cursor::Entry(id.to_owned())),
            Some(("p", rest)) => {
                let (version, account) = rest.split_once(' ')?;
                Some(Cursor::Posting {
                    account: account.to_owned(),
                    version: version.parse().ok()?,
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
        Cursor::Posting { account, version } => {
            return accounts(db, checkpoint, &account, version).await;
        }
    };
    let entries = entries(db, number, &after).await?;
    let next = match entries.last() {
        Some(last) if entries.len() as i64 == JOURNAL_PAGE => Cursor::Entry(last.id.clone()),
        _ => Cursor::Posting {
            account: String::new(),
            version: 0,
        },
    };
    lines.extend(entries.into_iter().map(Line::Entry));
    Ok((lines, Some(next)))
}

/// The head an account had at checkpoint `$1`, for a join.
macro_rules! head_at {
    ($account:literal) => {
        concat!(
            "JOIN checkpoint_heads h ON h.account_id = ",
            $account,
            " AND h.number = (SELECT MAX(x.number) FROM checkpoint_heads x
                              WHERE x.account_id = ",
            $account,
            " AND x.number <= $1)"
        )
    };
}

/// An entry commits as a whole, so its first posting says whether the checkpoint covers it.
async fn entries(db: &Db, number: i64, after: &str) -> Result<Vec<EntryLine>, DbError> {
    const SQL: &str = concat!(
        "SELECT e.id, e.external_id, e.kind, e.reference, e.payment_id, e.reverses, e.metadata,
                e.created_by, e.created_at
         FROM entries e
         JOIN postings p ON p.entry_id = e.id AND p.position = 0 ",
        head_at!("p.account_id"),
        " WHERE e.id > $2 AND p.account_version <= h.version ORDER BY e.id LIMIT $3"
    );
    let rows = db.query(SQL, params![number, after, JOURNAL_PAGE]).await?;
    let read = |row: &Row| {
        let entry = store::entry_row(row)?;
        Ok(EntryLine {
            hash: entry.digest(),
            id: entry.id,
            external_id: entry.external_id,
            kind: entry.kind,
            reference: entry.reference,
            payment_id: entry.payment_id,
            reverses: entry.reverses,
            metadata: entry.metadata,
            created_by: entry.created_by,
            created_at: entry.created_at,
        })
    };
    rows.iter().map(read).collect()
}

async fn accounts(
    db: &Db,
    checkpoint: &CheckpointLine,
    account: &str,
    version: i64,
) -> Result<(Vec<Line>, Option<Cursor>), DbError> {
    let number = checkpoint.number;
    let mut postings = postings(db, number, account, version).await?;
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
    let last_posting = postings.last().map(|p| (p.account.clone(), p.version));
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
    // An account whose line is out and whose postings are not begun ends the page at its version 0.
    let next = match (last_opened, last_posting) {
        (Some(opened), Some((account, version))) if account >= opened => {
            Cursor::Posting { account, version }
        }
        (Some(account), _) => Cursor::Posting {
            account,
            version: 0,
        },
        (None, Some((account, version))) => Cursor::Posting { account, version },
        (None, None) => return Ok((lines, None)),
    };
    Ok((lines, Some(next)))
}

/// Accounts after `after` that were there at the checkpoint.
async fn opened(db: &Db, number: i64, after: &str) -> Result<Vec<AccountLine>, DbError> {
    const SQL: &str = concat!(
        "SELECT a.id, a.code, a.name, a.currency, a.normal_side, a.floor, a.created_at, h.version
         FROM accounts a ",
        head_at!("a.id"),
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
    version: i64,
) -> Result<Vec<PostingLine>, DbError> {
    const SQL: &str = concat!(
        "SELECT p.account_id, p.account_version, p.entry_id, p.position, p.direction, p.amount,
                p.balance_after, p.hash
         FROM postings p ",
        head_at!("p.account_id"),
        " WHERE (p.account_id, p.account_version) > ($2, $3) AND p.account_version <= h.version
         ORDER BY p.account_id, p.account_version LIMIT $4"
    );
    let rows = db
        .query(SQL, params![number, account, version, JOURNAL_PAGE])
        .await?;
    let read = |row: &Row| {
        Ok(PostingLine {
            account: row.text(0)?.to_owned(),
            version: row.int(1)?,
            entry_id: row.text(2)?.to_owned(),
            position: row.int(3)?,
            direction: row.text(4)?.to_owned(),
            amount: row.int(5)?,
            balance_after: row.int(6)?,
            hash: store::hash(row.text(7)?)?,
        })
    };
    rows.iter().map(read).collect()
}

async fn count(db: &Db, number: i64) -> Result<i64, DbError> {
    const SQL: &str = concat!(
        "SELECT COUNT(*) FROM postings p ",
        head_at!("p.account_id"),
        " WHERE p.position = 0 AND p.account_version <= h.version"
    );
    let rows = db.query(SQL, params![number]).await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}
