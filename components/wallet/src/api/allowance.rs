//! What leaves counts toward its owner's limits, in euros.

use http::Method;
use innover_kit::{Code, Cx, Db, Failure, Result, call, config};
use innover_money::{Currency, Money};
use serde::Deserialize;

use crate::{
    ledger::decimal,
    model::{
        limits::{Exceeded, Table},
        movement::Movement,
    },
    store::{self, movements},
};

/// The variable that holds the limits of every tier.
const VARIABLE: &str = "wallet_limits";

/// The limits of every tier, as configured.
///
/// # Errors
/// 503 when they are not, or cannot be read.
pub async fn table() -> Result<Table> {
    let text = config::get(VARIABLE).await?;
    Table::parse(&text).map_err(|e| {
        Failure::new(
            Code::NotReady,
            format!("the variable `{VARIABLE}` does not fit: {e}"),
        )
    })
}

/// An amount as limits see it.
pub struct Allowance {
    cents: i64,
    table: Table,
}

#[derive(Deserialize)]
struct Equivalent {
    /// Rounded up; none without a rate.
    minor: Option<i64>,
}

impl Allowance {
    /// What `money` takes of a limit. Another currency is restated by forex at mid.
    ///
    /// # Errors
    /// 422 `no_rate` when it cannot be restated: what cannot be measured does not leave.
    pub async fn of(cx: &Cx, money: Money) -> Result<Allowance> {
        let table = table().await?;
        if money.currency() == Currency::EUR {
            let cents = money.minor();
            return Ok(Allowance { cents, table });
        }
        let path = format!(
            "/v1/equivalent?minor={}&currency={}&to=EUR",
            money.minor(),
            money.currency()
        );
        let restated: Equivalent =
            call::json(cx, Method::GET, "forex", &path, None::<&()>, true).await?;
        let cents = restated.minor.ok_or_else(|| {
            let what = format!(
                "there is no rate from {} to EUR, so the amount cannot be held against the limit",
                money.currency()
            );
            Failure::new(Code::NoRate, what).param("/currency")
        })?;
        Ok(Allowance { cents, table })
    }

    /// Puts it on a movement, when its owner's limits leave room for it now; the answer is what the
    /// day may come to, which the batch has to hold to.
    ///
    /// # Errors
    /// When the database fails. The inner error is the refusal.
    pub async fn take(&self, db: &Db, movement: &mut Movement) -> Result<Result<i64, Failure>> {
        let limits = self.table.of(store::tier(db, &movement.owner).await?);
        let used = movements::used(db, &movement.owner, movement.day).await?;
        if let Err(exceeded) = limits.check(used, self.cents) {
            return Ok(Err(refusal(&exceeded)));
        }
        movement.allowance = self.cents;
        Ok(Ok(limits.ceiling()))
    }
}

fn refusal(exceeded: &Exceeded) -> Failure {
    let eur = |cents| decimal(cents, Currency::EUR);
    let what = match exceeded {
        Exceeded::Transaction { limit } => {
            format!("at most {} EUR may leave at once", eur(*limit))
        }
        Exceeded::Day { limit, used } => format!(
            "at most {} EUR may leave in a day (UTC), and {} EUR of it are used",
            eur(*limit),
            eur(*used)
        ),
    };
    Failure::new(
        Code::LimitExceeded,
        format!("{what}; a higher KYC tier allows more"),
    )
    .param("/amount")
}
