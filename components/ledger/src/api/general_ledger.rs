//! The general ledger: every posting of every account, as CSV (RFC 4180).

use axum::{
    extract::Query,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, header};
use innover_kit::{Code, Cx, Db, Failure, Result, contract::time::rfc3339};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{READ, time, views::decimal};
use crate::{
    limits::GENERAL_LEDGER_PAGE,
    model::Side,
    store::reports::{self, LedgerRow},
};

/// Where the next page starts; absent after the last one.
const NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

const HEAD: &str = "account,account_code,account_name,number,time,entry,kind,reference,currency,\
                    debit,credit,balance\r\n";

/// Which postings.
#[derive(Clone, Debug, Deserialize, IntoParams)]
pub struct RangeQuery {
    /// Posted then or later; RFC 3339.
    from: Option<String>,
    /// Posted before then; RFC 3339.
    until: Option<String>,
    /// The header `x-next-cursor` of the page before.
    cursor: Option<String>,
}

/// The general ledger, as CSV.
///
/// By account and number, 1,000 lines a page; the header `x-next-cursor` is the `cursor` of the next
/// one, which has no line of names: pages put one after the other are one file.
#[utoipa::path(get, path = "/v1/general-ledger", tag = "trial balance", params(RangeQuery),
    responses((status = 200, body = String, content_type = "text/csv")))]
pub async fn get(cx: Cx, Query(query): Query<RangeQuery>) -> Result<Response> {
    cx.require(READ)?;
    let from = query
        .from
        .as_deref()
        .map_or(Ok(i64::MIN), |t| time(t, "from"))?;
    let until = query
        .until
        .as_deref()
        .map_or(Ok(i64::MAX), |t| time(t, "until"))?;
    let (account, after) = match query.cursor.as_deref() {
        None => (String::new(), 0),
        Some(cursor) => decode(cursor)?,
    };
    let db = Db::open().await?;
    let rows = reports::general_ledger(
        &db,
        (from, until),
        (&account, after),
        GENERAL_LEDGER_PAGE + 1,
    )
    .await?;
    let page = &rows[..rows.len().min(GENERAL_LEDGER_PAGE as usize)];
    let mut csv = String::with_capacity(HEAD.len() + 200 * page.len());
    if query.cursor.is_none() {
        csv.push_str(HEAD);
    }
    page.iter().for_each(|row| write(&mut csv, row));
    let kind = (
        header::CONTENT_TYPE,
        "text/csv; charset=utf-8; header=present",
    );
    let last = page.last().filter(|_| rows.len() > page.len());
    Ok(match last {
        Some(last) => ([kind], [(NEXT_CURSOR, encode(last))], csv).into_response(),
        None => ([kind], csv).into_response(),
    })
}

fn encode(last: &LedgerRow) -> String {
    let line = &last.posting.line;
    URL_SAFE_NO_PAD.encode(format!("{} {}", line.number, line.account))
}

fn decode(cursor: &str) -> Result<(String, i64)> {
    let text = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    text.as_deref()
        .and_then(|text| text.split_once(' '))
        .and_then(|(number, account)| Some((account.to_owned(), number.parse().ok()?)))
        .ok_or_else(|| {
            let what = "pass `x-next-cursor` of the page before unchanged";
            Failure::new(Code::InvalidCursor, what).param("cursor")
        })
}

fn write(csv: &mut String, row: &LedgerRow) {
    let (posting, line) = (&row.posting, &row.posting.line);
    let amount = decimal(line.amount, line.currency);
    let (debit, credit) = match line.side {
        Side::Debit => (amount.as_str(), ""),
        Side::Credit => ("", amount.as_str()),
    };
    let fields = [
        line.account.as_str(),
        &row.account_code,
        &row.account_name,
        &line.number.to_string(),
        &rfc3339(posting.created_at),
        &line.entry_id,
        &posting.kind,
        &posting.reference,
        line.currency.code(),
        debit,
        credit,
        &decimal(line.balance_after, line.currency),
    ];
    for (i, field) in fields.into_iter().enumerate() {
        if i > 0 {
            csv.push(',');
        }
        field_of(csv, field);
    }
    csv.push_str("\r\n");
}

/// A field, in quotes when it has to be (RFC 4180, 2.6 and 2.7).
fn field_of(csv: &mut String, field: &str) {
    if field.contains(['"', ',', '\r', '\n']) {
        csv.push('"');
        csv.push_str(&field.replace('"', "\"\""));
        csv.push('"');
    } else {
        csv.push_str(field);
    }
}
