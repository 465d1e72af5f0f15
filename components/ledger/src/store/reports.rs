//! What is summed over all postings.

use innover_kit::{Db, Row, db::DbError, params};
use innover_money::Currency;

use super::{
    currency,
    entries::{StatementRow, line, line_columns},
};

/// One currency of the trial balance, in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialRow {
    /// The currency.
    pub currency: Currency,
    /// Sum of all debit postings.
    pub debits: i64,
    /// Sum of all credit postings.
    pub credits: i64,
    /// Accounts in it.
    pub accounts: i64,
    /// Accounts whose totals are not the sums of their postings and reservations.
    pub differing: i64,
}

/// Every account beside the sums of its postings and of its open reservations.
macro_rules! beside_sums {
    ($select:literal, $rest:literal) => {
        concat!(
            $select,
            " FROM accounts a
             LEFT JOIN (SELECT account_no,
                               SUM(CASE WHEN direction = 'debit' THEN amount ELSE 0 END) AS debits,
                               SUM(CASE WHEN direction = 'credit' THEN amount ELSE 0 END) AS credits,
                               COUNT(*) AS postings
                        FROM postings GROUP BY account_no) p ON p.account_no = a.no
             LEFT JOIN (SELECT debit_no AS account_no, SUM(amount) AS amount
                        FROM pending WHERE state = 'pending' GROUP BY debit_no) d
                  ON d.account_no = a.no
             LEFT JOIN (SELECT credit_no AS account_no, SUM(amount) AS amount
                        FROM pending WHERE state = 'pending' GROUP BY credit_no) c
                  ON c.account_no = a.no ",
            $rest
        )
    };
}

/// Debits and credits per currency, summed from the postings, and how many accounts say otherwise:
/// one statement, so one snapshot.
pub async fn trial_balance(db: &Db) -> Result<Vec<TrialRow>, DbError> {
    let rows = db
        .query(
            beside_sums!(
                "SELECT a.currency,
                        CAST(SUM(COALESCE(p.debits, 0)) AS BIGINT),
                        CAST(SUM(COALESCE(p.credits, 0)) AS BIGINT),
                        COUNT(*),
                        CAST(SUM(CASE WHEN a.debits = COALESCE(p.debits, 0)
                                       AND a.credits = COALESCE(p.credits, 0)
                                       AND a.postings = COALESCE(p.postings, 0)
                                       AND a.pending_debits = COALESCE(d.amount, 0)
                                       AND a.pending_credits = COALESCE(c.amount, 0)
                                 THEN 0 ELSE 1 END) AS BIGINT)",
                "GROUP BY a.currency ORDER BY a.currency"
            ),
            params![],
        )
        .await?;
    let read = |row: &Row| {
        Ok(TrialRow {
            currency: currency(row.text(0)?)?,
            debits: row.int(1)?,
            credits: row.int(2)?,
            accounts: row.int(3)?,
            differing: row.int(4)?,
        })
    };
    rows.iter().map(read).collect()
}

/// The first accounts whose totals are not the sums of their postings and reservations.
pub async fn differing_accounts(db: &Db, limit: i64) -> Result<Vec<String>, DbError> {
    let rows = db
        .query(
            beside_sums!(
                "SELECT a.id",
                "WHERE a.debits <> COALESCE(p.debits, 0)
                    OR a.credits <> COALESCE(p.credits, 0)
                    OR a.postings <> COALESCE(p.postings, 0)
                    OR a.pending_debits <> COALESCE(d.amount, 0)
                    OR a.pending_credits <> COALESCE(c.amount, 0)
                 ORDER BY a.id LIMIT $1"
            ),
            params![limit],
        )
        .await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

/// A line of the general ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerRow {
    /// The posting and its entry.
    pub posting: StatementRow,
    /// The account's place in the chart of accounts.
    pub account_code: String,
    /// What people call the account.
    pub account_name: String,
}

/// Postings made from `from` until before `until`, by account and number, after the `after`th
/// posting of `account`, `limit` at most.
pub async fn general_ledger(
    db: &Db,
    (from, until): (i64, i64),
    (account, after): (&str, i64),
    limit: i64,
) -> Result<Vec<LedgerRow>, DbError> {
    const SQL: &str = concat!(
        "SELECT ",
        line_columns!(),
        ", e.kind, e.reference, e.created_at, a.code, a.name
         FROM accounts a
         JOIN postings p ON p.account_no = a.no
         JOIN entries e ON e.id = p.entry_id
         WHERE a.id >= $1 AND (a.id > $1 OR p.number > $2)
           AND e.created_at >= $3 AND e.created_at < $4
         ORDER BY a.id, p.number LIMIT $5"
    );
    let read = |row: &Row| {
        Ok(LedgerRow {
            posting: StatementRow {
                line: line(row)?,
                kind: row.text(10)?.into(),
                reference: row.text(11)?.into(),
                created_at: row.int(12)?,
            },
            account_code: row.text(13)?.into(),
            account_name: row.text(14)?.into(),
        })
    };
    let rows = db
        .query(SQL, params![account, after, from, until, limit])
        .await?;
    rows.iter().map(read).collect()
}
