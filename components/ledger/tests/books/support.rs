//! A migrated database of its own for each test, and things to put into it.

use innover_kit::{Batch, Db, Event};
use innover_money::{Currency, Minor, Money};
use ledger::{
    model::{Account, AccountId, House, Opening, Side},
    store::accounts,
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const MIGRATIONS: [&str; 2] = [
    include_str!("../../migrations/0001_init.sql"),
    include_str!("../../migrations/0002_one_row_for_an_id.sql"),
];

pub struct Database {
    folder: TempDir,
}

impl Database {
    pub fn new() -> Database {
        let folder = tempfile::tempdir().expect("a folder");
        let file = rusqlite::Connection::open(folder.path().join("ledger.db")).expect("a file");
        for migration in MIGRATIONS {
            file.execute_batch(migration).expect("the migration");
        }
        Database { folder }
    }

    pub fn connect(&self) -> Db {
        Db::open_file(&self.folder.path().join("ledger.db")).expect("a connection")
    }

    /// A statement a test makes behind the ledger's back.
    pub fn execute(&self, sql: &str) -> rusqlite::Result<()> {
        rusqlite::Connection::open(self.folder.path().join("ledger.db"))?.execute_batch(sql)
    }
}

pub fn currency(code: &str) -> Currency {
    Currency::parse(code).expect("a listed code")
}

pub fn money(amount: &str, code: &str) -> Money {
    Money::parse(amount, currency(code)).expect("an amount")
}

pub fn wallet(id: &str, code: &str) -> Opening {
    Opening {
        id: id.into(),
        code: "wallet".into(),
        name: String::new(),
        currency: currency(code),
        normal_side: Side::Credit,
        floor: Some(Minor::ZERO),
        metadata: "{}".into(),
    }
}

pub fn account(opening: &Opening, posted: i64) -> Account {
    let mut account = Account::opened(opening, 1, 1);
    match opening.normal_side {
        Side::Credit => account.totals.credits = Minor(posted),
        Side::Debit => account.totals.debits = Minor(posted),
    }
    account
}

/// Wallet accounts and the house's in their currencies.
pub async fn open(db: &mut Db, wallets: &[(&str, &str)]) {
    let mut openings: Vec<Opening> = wallets.iter().map(|(id, code)| wallet(id, code)).collect();
    let mut codes: Vec<&str> = wallets.iter().map(|(_, code)| *code).collect();
    codes.sort_unstable();
    codes.dedup();
    for code in codes {
        openings.extend(House::ALL.map(|house| house.opening(currency(code))));
    }
    let mut batch = Batch::new();
    let no = accounts::next_no(db).await.expect("read");
    accounts::open(&mut batch, &openings, no, 1);
    batch.commit(db).await.expect("opened");
}

pub async fn posted(db: &Db, id: &str) -> i64 {
    let row = accounts::find(db, id).await.expect("read").expect("there");
    row.account.balance().posted
}

pub fn id(text: &str) -> AccountId {
    text.into()
}

/// A conversion as forex emits it.
pub fn converted(
    payment: &str,
    from: (&str, i64, &str),
    to: (&str, i64, &str),
    margin: i64,
) -> Event {
    let (payer, source_minor, source_currency) = from;
    let (payee, target_minor, target_currency) = to;
    event(
        "/innover/forex",
        payment,
        json!({
            "payment_id": payment, "payer_account": payer, "payee_account": payee,
            "source_minor": source_minor, "source_currency": source_currency,
            "target_minor": target_minor, "target_currency": target_currency,
            "margin_minor": margin, "rate": "1", "rate_date": null, "exact": "1", "conversion_id": null,
        }),
    )
}

/// A refund as the refund service emits it; the payee gives `to` back, the payer gets `from`.
pub fn refunded(
    refund: &str,
    from: (&str, i64, &str),
    to: (&str, i64, &str),
    margin: i64,
) -> Event {
    let (payer, source_minor, source_currency) = from;
    let (payee, target_minor, target_currency) = to;
    let data = json!({
        "refund_id": refund, "payment_id": "pay_1", "reverses": "pay_1", "state": "pending",
        "payer_account": payer, "payee_account": payee,
        "source_minor": source_minor, "source_currency": source_currency,
        "target_minor": target_minor, "target_currency": target_currency,
        "margin_minor": margin, "reason": "",
    });
    Event {
        kind: "refund.initiated".into(),
        ..event("/innover/refund", refund, data)
    }
}

pub fn event(source: &str, key: &str, data: Value) -> Event {
    Event {
        specversion: "1.0".into(),
        id: innover_kit::ids::new_uuid(),
        source: source.into(),
        kind: "forex.converted".into(),
        subject: key.into(),
        time: "2026-10-30T12:00:00Z".into(),
        datacontenttype: "application/json".into(),
        dataschema: String::new(),
        partitionkey: key.into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        correlationid: Some("req-1".into()),
        idempotencykey: None,
        authid: None,
        data,
    }
}

/// What is in the outbox: type, key, payload, headers.
pub async fn outbox(db: &Db) -> Vec<(String, String, Value, Value)> {
    let rows = db
        .query(
            "SELECT type, key, payload, headers FROM outbox ORDER BY id",
            vec![],
        )
        .await
        .expect("read");
    let json = |text: &str| serde_json::from_str(text).expect("JSON");
    rows.iter()
        .map(|row| {
            let text = |i| row.text(i).expect("text");
            (
                text(0).to_owned(),
                text(1).to_owned(),
                json(text(2)),
                json(text(3)),
            )
        })
        .collect()
}
