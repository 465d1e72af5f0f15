//! The entry of a payment, from the conversion that forex decided.

use innover_money::{Currency, Minor, Money};
use serde::Deserialize;

use super::{AccountId, Checked, Entry, EntryError, House, Posting};

/// The part of `forex.converted` that is booked. Amounts are minor units.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Converted {
    /// The payment.
    pub payment_id: String,
    /// Who pays.
    pub payer_account: String,
    /// Who is paid.
    pub payee_account: String,
    /// What leaves the payer.
    pub source_minor: i64,
    /// In which currency.
    pub source_currency: Currency,
    /// What reaches the payee.
    pub target_minor: i64,
    /// In which currency.
    pub target_currency: Currency,
    /// The house's share of the source amount, in the source currency.
    #[serde(default)]
    pub margin_minor: i64,
}

impl Converted {
    /// The accounts the entry touches, also when it will be refused.
    pub fn accounts(&self) -> Vec<AccountId> {
        let mut ids = vec![
            self.payer_account.as_str().into(),
            self.payee_account.as_str().into(),
        ];
        if self.margin_minor > 0 {
            ids.push(House::Margin.id(self.source_currency));
        }
        if self.source_currency != self.target_currency {
            ids.push(House::Fx.id(self.source_currency));
            ids.push(House::Fx.id(self.target_currency));
        }
        ids
    }

    /// The entry. Within one currency the payer pays the payee and the margin; across two, the
    /// house's position takes the source in and gives the target out, so each currency balances by
    /// itself and the margin is a posting of its own, never hidden in the rate.
    ///
    /// # Errors
    /// When the amounts make no entry: nothing reaches the payee, or the parts do not add up.
    pub fn entry(&self) -> Result<Checked<Entry>, EntryError> {
        let (source, target) = (self.source_currency, self.target_currency);
        let payer = AccountId::from(self.payer_account.as_str());
        let payee = AccountId::from(self.payee_account.as_str());
        let mut postings = vec![Posting::debit(payer, money(self.source_minor, source, 0)?)];
        if source != target {
            let kept = Minor(self.source_minor).checked_sub(Minor(self.margin_minor));
            let kept = kept.map_err(|_| EntryError::NotPositive { position: 1 })?;
            postings.push(Posting::credit(
                House::Fx.id(source),
                money(kept.0, source, 1)?,
            ));
            let given = money(self.target_minor, target, 2)?;
            postings.push(Posting::debit(House::Fx.id(target), given));
        }
        let got = money(self.target_minor, target, postings.len())?;
        postings.push(Posting::credit(payee, got));
        if self.margin_minor != 0 {
            let margin = money(self.margin_minor, source, postings.len())?;
            postings.push(Posting::credit(House::Margin.id(source), margin));
        }
        Entry { postings }.check()
    }
}

/// An amount in a currency nothing can be paid in moves nothing.
pub(super) fn money(minor: i64, currency: Currency, position: usize) -> Result<Money, EntryError> {
    Money::new(minor, currency).map_err(|_| EntryError::NotPositive { position })
}
