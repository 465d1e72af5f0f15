//! Money enters a wallet from the house's cash.

use axum::extract::Path;
use http::Method;
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result,
    amount::{self, Amount},
    call, idempotency,
    idempotency::IdempotencyKey,
    ids,
};
use innover_money::Money;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{BalanceView, wallets::existing};
use crate::{
    events,
    model::{AccountState, TopUpError, Wallet},
    store::{self, TopUp},
};

/// Money that enters a wallet.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUpRequest {
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The wallet's currency.
    #[schema(example = "EUR")]
    currency: String,
}

/// A top-up that was booked.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopUpView {
    id: String,
    wallet_id: String,
    /// The journal entry.
    entry_id: String,
    amount: String,
    currency: String,
    /// What the wallet held after it.
    balance: BalanceView,
}

/// The ledger's answer to an entry, as far as it is read here.
#[derive(Clone, Debug, Deserialize)]
struct Booked {
    id: String,
    balances: Vec<BookedBalance>,
}

#[derive(Clone, Debug, Deserialize)]
struct BookedBalance {
    account: String,
    posted: String,
    held: String,
    version: i64,
}

impl Booked {
    /// What it says of the wallet's account.
    fn account(&self, wallet: &Wallet) -> Result<AccountState> {
        let minor = |text: &str| Money::parse(text, wallet.currency).ok().map(Money::minor);
        self.balances
            .iter()
            .find(|b| b.account == wallet.account_id)
            .and_then(|b| {
                Some(AccountState {
                    account_id: b.account.clone(),
                    posted_minor: minor(&b.posted)?,
                    held_minor: minor(&b.held)?,
                    version: b.version,
                })
            })
            .ok_or_else(|| {
                Failure::new(
                    Code::UpstreamError,
                    "`ledger`: its answer lacks the wallet's balance",
                )
            })
    }
}

/// Top up a wallet.
///
/// The ledger books it first, under an id that follows from the Idempotency-Key; a retry after a
/// crash in between finds that entry and only writes what is missing here.
#[utoipa::path(post, path = "/v1/wallets/{id}/top-ups", tag = "top-ups", request_body = TopUpRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this top-up")),
    responses((status = 201, body = TopUpView), (status = 404, description = "wallet_not_found"),
              (status = 422, description = "currency_mismatch or wallet_not_active")))]
pub async fn create(cx: Cx, Path(id): Path<String>, body: Body<TopUpRequest>) -> Result<Answer> {
    let identity = cx.require("ledger:write")?;
    let who = if identity.sub.is_empty() {
        &identity.client_id
    } else {
        &identity.sub
    };
    let key = cx.require_idempotency(&body.fields)?;
    let money = amount::money(&body.value.amount, &body.value.currency)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let wallet = existing(&db, &id).await?;
    wallet.may_take(money).map_err(refused)?;
    let top_up_id = top_up_id(&cx, who, &wallet.id);
    let booked = book(&cx, &wallet, &top_up_id, money).await?;
    let top_up = TopUp {
        id: top_up_id,
        wallet_id: wallet.id.clone(),
        entry_id: booked.id.clone(),
        amount: money.minor(),
        created_by: who.clone(),
        created_at: ids::now_us(),
    };
    let account = booked.account(&wallet)?;
    settle(&mut db, &key, wallet, &top_up, &account, Cause::from(&cx)).await
}

fn refused(error: TopUpError) -> Failure {
    match error {
        TopUpError::NotActive(state) => Failure::new(
            Code::WalletNotActive,
            format!("the wallet is {}", state.as_str()),
        ),
        TopUpError::CurrencyMismatch(currency) => Failure::new(
            Code::CurrencyMismatch,
            format!("the wallet is in {currency}"),
        )
        .param("/currency"),
    }
}

/// The same key of the same caller for the same wallet is the same top-up, also for a process that
/// knows nothing of the first attempt.
fn top_up_id(cx: &Cx, who: &str, wallet_id: &str) -> String {
    let key = Cause::from(cx).idempotency_key.unwrap_or_default();
    let mut digest = Sha256::new();
    for part in [who, wallet_id, &key] {
        // Length-prefixed, so that no two run together.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let hex: String = digest.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("top_{hex}")
}

async fn book(cx: &Cx, wallet: &Wallet, top_up_id: &str, money: Money) -> Result<Booked> {
    let posting = |account: String, direction: &str| {
        json!({
            "account": account,
            "direction": direction,
            "amount": money.to_decimal_string(),
            "currency": money.currency(),
        })
    };
    let entry = json!({
        "kind": "top_up",
        "reference": wallet.id,
        "id": top_up_id,
        "postings": [
            posting(format!("acc_house_cash_{}", money.currency()), "debit"),
            posting(wallet.account_id.clone(), "credit"),
        ],
    });
    // Safe to repeat: the ledger books an id once.
    call::json(
        cx,
        Method::POST,
        "ledger",
        "/v1/entries",
        Some(&entry),
        true,
    )
    .await
}

/// Writes what the ledger booked: the top-up, the new balance unless a later one is known already,
/// and the event when it was news.
async fn settle(
    db: &mut Db,
    key: &IdempotencyKey,
    mut wallet: Wallet,
    top_up: &TopUp,
    account: &AccountState,
    cause: Cause,
) -> Result<Answer> {
    let news = wallet.follow(account);
    let mut batch = Batch::new();
    store::insert_top_up(&mut batch, top_up);
    if news {
        store::follow(&mut batch, [&wallet]);
        let wallets = std::slice::from_ref(&wallet);
        batch.emit(events::updated(&top_up.entry_id, None, wallets, cause));
    }
    let after = Wallet {
        posted: account.posted_minor,
        held: account.held_minor,
        ..wallet
    };
    let answer = Answer::json(
        201,
        &TopUpView {
            id: top_up.id.clone(),
            wallet_id: after.id.clone(),
            entry_id: top_up.entry_id.clone(),
            amount: super::decimal(top_up.amount, after.currency),
            currency: after.currency.code().into(),
            balance: BalanceView::from(&after),
        },
    )?;
    Ok(idempotency::commit(db, batch, Some(key), answer).await?)
}

#[cfg(test)]
mod tests {
    use http::Request;
    use innover_kit::contract::{Identity, ServiceClaims};

    use super::*;
    use crate::model::State;

    struct Database(tempfile::TempDir);

    impl Database {
        fn new() -> Database {
            let folder = tempfile::tempdir().expect("a folder");
            let file = rusqlite::Connection::open(folder.path().join("wallet.db")).expect("a file");
            file.execute_batch(include_str!("../../migrations/0001_init.sql"))
                .expect("migrated");
            Database(folder)
        }

        async fn with_a_wallet() -> (Database, Db) {
            let database = Database::new();
            let mut db = database.connect();
            let wallet = Wallet {
                id: "wal_a".into(),
                owner: "usr_anna".into(),
                currency: innover_money::Currency::EUR,
                state: State::Active,
                account_id: "acc_a".into(),
                posted: 0,
                held: 0,
                account_version: 0,
                version: 1,
                created_at: 1,
            };
            let mut batch = Batch::new();
            store::insert(&mut batch, &wallet);
            batch.commit(&mut db).await.expect("added");
            (database, db)
        }

        fn connect(&self) -> Db {
            Db::open_file(&self.0.path().join("wallet.db")).expect("a connection")
        }
    }

    fn request(key: &str, who: &str) -> Cx {
        let request = Request::builder()
            .method("POST")
            .uri("/v1/wallets/wal_a/top-ups")
            .header("idempotency-key", key)
            .body(())
            .expect("a request");
        let identity = Identity {
            sub: who.into(),
            ..Default::default()
        };
        let claims = ServiceClaims {
            caller: "gateway".into(),
            identity,
            request_id: "r".into(),
        };
        Cx::new("wallet", &request.into_parts().0, Some(claims.into()))
    }

    /// What follows the ledger's answer, in a process that may be another one than the one before.
    async fn finish(db: &mut Db, cx: &Cx, booked: &Booked) -> Answer {
        let key = cx
            .require_idempotency(&serde_json::Map::new())
            .expect("a key");
        if let Some(answer) = key.replay(db).await.expect("read") {
            return answer;
        }
        let wallet = existing(db, "wal_a").await.expect("there");
        let top_up = TopUp {
            id: top_up_id(cx, "usr_finance", "wal_a"),
            wallet_id: "wal_a".into(),
            entry_id: booked.id.clone(),
            amount: 2_500,
            created_by: "usr_finance".into(),
            created_at: 1,
        };
        let account = booked.account(&wallet).expect("its balance");
        settle(db, &key, wallet, &top_up, &account, Cause::from(cx))
            .await
            .expect("settled")
    }

    fn booked(posted: &str, version: i64) -> Booked {
        serde_json::from_value(json!({
            "id": "ent_1", "kind": "top_up",
            "balances": [
                {"account": "acc_house_cash_EUR", "posted": "99.00", "held": "0.00", "version": 7},
                {"account": "acc_a", "posted": posted, "held": "0.00", "version": version},
            ],
        }))
        .expect("the ledger's answer")
    }

    async fn count(db: &Db, table: &'static str) -> i64 {
        let sql = match table {
            "top_ups" => "SELECT COUNT(*) FROM top_ups",
            _ => "SELECT COUNT(*) FROM outbox",
        };
        db.query(sql, vec![]).await.expect("read")[0]
            .int(0)
            .expect("a number")
    }

    #[test]
    fn the_same_key_is_the_same_top_up_in_any_process() {
        let id = |key, who, wallet| top_up_id(&request(key, who), who, wallet);
        let first = id("k1", "usr_f", "wal_a");
        assert_eq!(first, id("k1", "usr_f", "wal_a"));
        for other in [
            id("k2", "usr_f", "wal_a"),
            id("k1", "usr_g", "wal_a"),
            id("k1", "usr_f", "wal_b"),
        ] {
            assert_ne!(first, other);
        }
    }

    #[tokio::test]
    async fn a_top_up_shows_the_ledgers_balance_and_is_told() {
        let (_database, mut db) = Database::with_a_wallet().await;
        let answer = finish(&mut db, &request("k1", "usr_finance"), &booked("25.00", 1)).await;
        let view: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(
            (answer.status, &view["balance"]["available"]),
            (201, &json!("25.00"))
        );
        assert_eq!(
            (&view["entry_id"], &view["amount"]),
            (&json!("ent_1"), &json!("25.00"))
        );
        assert_eq!(
            existing(&db, "wal_a").await.map(|w| w.posted).ok(),
            Some(2_500)
        );
        assert_eq!(
            (count(&db, "top_ups").await, count(&db, "outbox").await),
            (1, 1)
        );
    }

    #[tokio::test]
    async fn a_retry_after_a_crash_between_ledger_and_wallet_writes_what_is_missing() {
        let (database, mut db) = Database::with_a_wallet().await;
        // The first process died after the ledger booked entry 1. Meanwhile the ledger's event came,
        // and a payment took 5.00 out again.
        let mut wallet = existing(&db, "wal_a").await.expect("there");
        wallet.follow(&AccountState {
            account_id: "acc_a".into(),
            posted_minor: 2_000,
            held_minor: 0,
            version: 2,
        });
        let mut batch = Batch::new();
        store::follow(&mut batch, [&wallet]);
        batch.commit(&mut db).await.expect("followed");
        // The retry gets the same answer from the ledger, by the same external id.
        let mut other = database.connect();
        let answer = finish(
            &mut other,
            &request("k1", "usr_finance"),
            &booked("25.00", 1),
        )
        .await;
        let view: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(
            (answer.status, &view["balance"]["posted"]),
            (201, &json!("25.00"))
        );
        assert_eq!(
            existing(&db, "wal_a").await.map(|w| w.posted).ok(),
            Some(2_000),
            "not set back"
        );
        assert_eq!(
            (count(&db, "top_ups").await, count(&db, "outbox").await),
            (1, 0),
            "old news"
        );
        let again = finish(&mut db, &request("k1", "usr_finance"), &booked("25.00", 1)).await;
        assert_eq!((again.body, again.replayed), (answer.body, true));
        assert_eq!(count(&db, "top_ups").await, 1);
    }

    #[tokio::test]
    async fn twins_that_both_reached_the_ledger_are_one_top_up() {
        let (database, mut db) = Database::with_a_wallet().await;
        let mut other = database.connect();
        let cx = request("k1", "usr_finance");
        let key = cx
            .require_idempotency(&serde_json::Map::new())
            .expect("a key");
        let stale = existing(&other, "wal_a").await.expect("there");
        let first = finish(&mut db, &cx, &booked("25.00", 1)).await;
        let top_up = TopUp {
            id: top_up_id(&cx, "usr_finance", "wal_a"),
            wallet_id: "wal_a".into(),
            entry_id: "ent_1".into(),
            amount: 2_500,
            created_by: "usr_finance".into(),
            created_at: 2,
        };
        let account = booked("25.00", 1).account(&stale).expect("its balance");
        let second = settle(&mut other, &key, stale, &top_up, &account, Cause::from(&cx)).await;
        let second = second.expect("the winner's answer");
        assert_eq!((second.body, second.replayed), (first.body, true));
        assert_eq!(
            (count(&db, "top_ups").await, count(&db, "outbox").await),
            (1, 1)
        );
    }
}
