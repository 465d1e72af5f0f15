//! The entry of a refund: the legs of its payment's entry turned round.

use innover_money::{Currency, Minor};
use serde::Deserialize;

use super::{AccountId, Checked, Entry, EntryError, House, Posting, payment::money};

/// The part of `refund.initiated` that is booked. Amounts are minor units.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Refunded {
    /// The refund.
    pub refund_id: String,
    /// The payment it takes back, whole or in part.
    pub payment_id: String,
    /// That payment's entry.
    pub reverses: String,
    /// Who paid, and gets it back.
    pub payer_account: String,
    /// Who was paid, and gives it back.
    pub payee_account: String,
    /// What the payer gets back.
    pub source_minor: i64,
    /// In which currency.
    pub source_currency: Currency,
    /// What the payee gives back; nothing when earlier parts, rounded up, gave it already.
    pub target_minor: i64,
    /// In which currency.
    pub target_currency: Currency,
    /// The house's share of the source amount, which it gives back.
    pub margin_minor: i64,
}

impl Refunded {
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

    /// The entry. What the payment credited is debited and the other way round; across two
    /// currencies a small part may leave a leg with nothing, which is then no posting.
    ///
    /// # Errors
    /// When the amounts make no entry: nothing reaches the payer, or the parts do not add up.
    pub fn entry(&self) -> Result<Checked<Entry>, EntryError> {
        let (source, target) = (self.source_currency, self.target_currency);
        let payee = AccountId::from(self.payee_account.as_str());
        let payer = AccountId::from(self.payer_account.as_str());
        let mut postings = Vec::with_capacity(5);
        if source == target {
            let given = money(self.target_minor, target, 0)?;
            postings.push(Posting::debit(payee, given));
        } else {
            if self.target_minor != 0 {
                let given = money(self.target_minor, target, 0)?;
                postings.push(Posting::debit(payee, given));
                postings.push(Posting::credit(House::Fx.id(target), given));
            }
            let kept = Minor(self.source_minor).checked_sub(Minor(self.margin_minor));
            let position = postings.len();
            let kept = kept.map_err(|_| EntryError::NotPositive { position })?;
            if kept != Minor::ZERO {
                let kept = money(kept.0, source, position)?;
                postings.push(Posting::debit(House::Fx.id(source), kept));
            }
        }
        if self.margin_minor != 0 {
            let margin = money(self.margin_minor, source, postings.len())?;
            postings.push(Posting::debit(House::Margin.id(source), margin));
        }
        let back = money(self.source_minor, source, postings.len())?;
        postings.push(Posting::credit(payer, back));
        Entry { postings }.check()
    }
}
