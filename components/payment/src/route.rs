//! Which way an amount takes to its payee: from one wallet in the payee's currency, by one
//! conversion, or split over several wallets; whichever costs the payer least. Pure.

use innover_money::{Money, MoneyError, Rate, Rounding, convert};
use serde::Serialize;

/// Wallets one payment may be split over: each is a payment of its own.
pub const LEGS_MAX: usize = 8;

/// The parts of a whole's worth by what arrives through each leg; they add up to the whole.
pub fn shares(whole: Option<i64>, legs: &[Leg]) -> Vec<Option<i64>> {
    let arriving: Vec<i128> = legs
        .iter()
        .map(|leg| i128::from(leg.part.target().minor()))
        .collect();
    let all: i128 = arriving.iter().sum::<i128>().max(1);
    let (mut arrived, mut given) = (0, 0);
    arriving
        .into_iter()
        .map(|minor| {
            arrived += minor;
            let so_far = i128::from(whole?) * arrived / all;
            let share = so_far - std::mem::replace(&mut given, so_far);
            i64::try_from(share).ok()
        })
        .collect()
}

/// A price of forex's: what leaves a wallet and what arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// Margin included.
    pub source: Money,
    /// The house's part of it.
    pub margin: Money,
    /// What arrives.
    pub target: Money,
    /// The mid rate.
    pub rate: Rate,
}

impl Price {
    /// What the payer loses against the mid rate: margin and rounding, in minor units of the target
    /// currency, rounded up.
    fn cost(&self) -> Result<i64, MoneyError> {
        let worth = convert(
            self.source,
            &self.rate,
            self.target.currency(),
            Rounding::Up,
        )?;
        Ok(worth.result.checked_sub(self.target)?.minor())
    }
}

/// A wallet that could pay.
#[derive(Clone, Debug, PartialEq)]
pub struct Purse {
    /// `wal_…`.
    pub id: String,
    /// What can be taken from it.
    pub available: Money,
    /// What the whole amount would cost from it; `None` in the payee's currency, or without a price.
    pub whole: Option<Price>,
    /// What everything in it would buy, where it does not hold enough for the whole.
    pub all: Option<Price>,
}

impl Purse {
    fn is_payees(&self, amount: Money) -> bool {
        self.available.currency() == amount.currency()
    }

    /// The price of the whole amount, where there is enough for it.
    fn covers_by(&self) -> Option<&Price> {
        self.whole
            .as_ref()
            .filter(|price| price.source.minor() <= self.available.minor())
    }

    /// Minor units of the payee's currency it can contribute.
    fn capacity(&self, amount: Money) -> i64 {
        let most = if self.is_payees(amount) {
            self.available.minor()
        } else if self.covers_by().is_some() {
            amount.minor()
        } else {
            self.all.as_ref().map_or(0, |price| price.target.minor())
        };
        most.min(amount.minor())
    }
}

/// What a wallet pays of the amount.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// In the payee's currency.
    Same(Money),
    /// What was asked for of the target currency, at this price.
    Fixed(Price),
    /// Everything there is, at this price.
    All(Price),
}

impl Part {
    /// What leaves the wallet.
    pub fn source(&self) -> Money {
        match self {
            Part::Same(money) => *money,
            Part::Fixed(price) | Part::All(price) => price.source,
        }
    }

    /// What arrives.
    pub fn target(&self) -> Money {
        match self {
            Part::Same(money) => *money,
            Part::Fixed(price) | Part::All(price) => price.target,
        }
    }

    /// The house's part; `None` without a conversion.
    pub fn margin(&self) -> Option<Money> {
        match self {
            Part::Same(_) => None,
            Part::Fixed(price) | Part::All(price) => Some(price.margin),
        }
    }

    /// Margin and rounding in minor units of the payee's currency.
    ///
    /// # Errors
    /// [`MoneyError::OutOfRange`].
    pub fn cost(&self) -> Result<i64, MoneyError> {
        match self {
            Part::Same(_) => Ok(0),
            Part::Fixed(price) | Part::All(price) => price.cost(),
        }
    }
}

/// One wallet's part of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Leg {
    /// The wallet.
    pub wallet: String,
    /// What it pays.
    pub part: Part,
}

/// The kind of a route, in the order that decides between equals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One wallet in the payee's currency.
    SameCurrency,
    /// One wallet in another currency.
    Conversion,
    /// Several wallets.
    Split,
}

/// A way to the payee.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its kind.
    pub kind: Kind,
    /// Margin and rounding of all its legs, in minor units of the payee's currency.
    pub cost: i64,
    /// At least one; together they bring exactly the amount.
    pub legs: Vec<Leg>,
}

impl Route {
    /// # Errors
    /// [`MoneyError::OutOfRange`].
    pub fn new(legs: Vec<Leg>) -> Result<Route, MoneyError> {
        let mut cost = 0i64;
        for leg in &legs {
            cost = cost
                .checked_add(leg.part.cost()?)
                .ok_or(MoneyError::OutOfRange)?;
        }
        let kind = match legs.as_slice() {
            [one] if matches!(one.part, Part::Same(_)) => Kind::SameCurrency,
            [_] => Kind::Conversion,
            _ => Kind::Split,
        };
        Ok(Route { kind, cost, legs })
    }
}

/// The wallet in the payee's currency that covers the amount by itself and is left with least. It
/// costs nothing, so nothing else need be priced.
pub fn without_conversion(purses: &[Purse], amount: Money) -> Option<Leg> {
    purses
        .iter()
        .filter(|p| p.is_payees(amount) && p.available.minor() >= amount.minor())
        .min_by_key(|p| (p.available.minor(), &p.id))
        .map(|p| Leg {
            wallet: p.id.clone(),
            part: Part::Same(amount),
        })
}

/// Every wallet that covers the amount by one conversion.
pub fn conversions(purses: &[Purse]) -> Vec<Leg> {
    purses
        .iter()
        .filter_map(|purse| {
            Some(Leg {
                wallet: purse.id.clone(),
                part: Part::Fixed(purse.covers_by()?.clone()),
            })
        })
        .collect()
}

/// A split over several wallets, but for the price of its last part.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The legs that are known.
    pub legs: Vec<Leg>,
    /// The wallet that converts what is left, and how much of the payee's currency that is.
    pub rest: Option<(String, Money)>,
}

/// Takes the payee's own currency first, since that costs nothing, then the wallets that contribute
/// most, so that the legs are few. `None` when all of them together are not enough, or one would do.
pub fn split(purses: &[Purse], amount: Money) -> Option<Split> {
    let mut order: Vec<&Purse> = purses.iter().filter(|p| p.capacity(amount) > 0).collect();
    order.sort_by_key(|p| {
        let capacity = p.capacity(amount);
        (!p.is_payees(amount), std::cmp::Reverse(capacity), &p.id)
    });
    let mut left = amount.minor();
    let mut split = Split {
        legs: Vec::new(),
        rest: None,
    };
    for purse in order {
        let capacity = purse.capacity(amount);
        let take = capacity.min(left);
        let money = |minor| Money::new(minor, amount.currency()).ok();
        let leg = |part| Leg {
            wallet: purse.id.clone(),
            part,
        };
        if purse.is_payees(amount) {
            split.legs.push(leg(Part::Same(money(take)?)));
        } else if let Some(all) = purse.all.as_ref().filter(|_| capacity <= left) {
            split.legs.push(leg(Part::All(all.clone())));
        } else {
            split.rest = Some((purse.id.clone(), money(take)?));
        }
        left -= take;
        if left == 0 {
            break;
        }
    }
    let legs = split.legs.len() + usize::from(split.rest.is_some());
    (left == 0 && (2..=LEGS_MAX).contains(&legs)).then_some(split)
}

/// How much of `amount` all wallets together can bring.
pub fn covered(purses: &[Purse], amount: Money) -> i64 {
    let sum: i128 = purses.iter().map(|p| i128::from(p.capacity(amount))).sum();
    i64::try_from(sum).unwrap_or(i64::MAX).min(amount.minor())
}

/// The cheapest route, of equals the one with fewer legs; and the best of each other kind.
pub fn choose(mut routes: Vec<Route>) -> Option<(Route, Vec<Route>)> {
    routes.sort_by(|a, b| {
        let rank = |r: &Route| (r.cost, r.legs.len(), r.kind);
        rank(a)
            .cmp(&rank(b))
            .then_with(|| a.legs[0].wallet.cmp(&b.legs[0].wallet))
    });
    let mut rest = routes.into_iter();
    let chosen = rest.next()?;
    let mut others: Vec<Route> = Vec::new();
    for route in rest {
        if route.kind != chosen.kind && others.iter().all(|o| o.kind != route.kind) {
            others.push(route);
        }
    }
    Some((chosen, others))
}

/// Why `chosen` was taken, in words.
pub fn why(chosen: &Route, others: &[Route], amount: Money) -> String {
    let cost = |minor: i64| {
        Money::new(minor, amount.currency()).map_or_else(|_| minor.to_string(), |m| m.to_string())
    };
    if chosen.kind == Kind::SameCurrency {
        return format!(
            "a wallet in {} covers it: nothing is converted, so it costs nothing",
            amount.currency().code()
        );
    }
    let name = |route: &Route| match route.kind {
        Kind::SameCurrency => "one wallet in the payee's currency".to_owned(),
        Kind::Conversion => format!(
            "one conversion from {}",
            route.legs[0].part.source().currency().code()
        ),
        Kind::Split => format!("a split over {} wallets", route.legs.len()),
    };
    let mut text = format!(
        "{} costs {} against the mid rate",
        name(chosen),
        cost(chosen.cost)
    );
    for other in others {
        text.push_str(&format!(
            "; {} would cost {}",
            name(other),
            cost(other.cost)
        ));
    }
    if others.is_empty() {
        text.push_str("; no other kind of route covers the amount");
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use innover_money::{Currency, margin};
    use proptest::prelude::*;

    use super::*;

    fn money(text: &str, code: &str) -> Money {
        Money::parse(text, Currency::parse(code).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn shares_of_a_worth_are_in_proportion_and_add_up(
            whole in 0_i64..=i64::MAX,
            arriving in proptest::collection::vec(1_i64..=1_000_000_000_000, 1..=LEGS_MAX),
        ) {
            let leg = |minor: &i64| Leg {
                wallet: "wal".into(),
                part: Part::Same(Money::new(*minor, Currency::EUR).unwrap()),
            };
            let legs: Vec<Leg> = arriving.iter().map(leg).collect();
            let shares: Vec<i64> = shares(Some(whole), &legs).into_iter().map(Option::unwrap).collect();
            prop_assert_eq!(shares.iter().map(|share| i128::from(*share)).sum::<i128>(), i128::from(whole));
            let all: i128 = arriving.iter().map(|minor| i128::from(*minor)).sum();
            for (share, minor) in shares.iter().zip(&arriving) {
                let exact = i128::from(whole) * i128::from(*minor);
                prop_assert!((i128::from(*share) * all - exact).abs() < all, "within a cent");
            }
            prop_assert!(super::shares(None, &legs).iter().all(Option::is_none));
        }
    }

    /// What forex answers: the source given, or the target.
    fn price_all(source: Money, rate: &str, to: Currency, bps: u32) -> Option<Price> {
        let (rate, margin) = (Rate::parse(rate).unwrap(), margin(source, bps).unwrap());
        let rest = source.checked_sub(margin).unwrap();
        let target = convert(rest, &rate, to, Rounding::Down).unwrap().result;
        target.is_positive().then_some(Price {
            source,
            margin,
            target,
            rate,
        })
    }

    fn price_fixed(target: Money, rate: &str, from: Currency, bps: u32) -> Price {
        let rate = Rate::parse(rate).unwrap();
        let rest = convert(target, &rate.invert(), from, Rounding::Up).unwrap();
        let kept = 10_000 - i64::from(bps);
        let source = (rest.result.minor() * 10_000 + kept - 1) / kept;
        let source = Money::new(source, from).unwrap();
        Price {
            source,
            margin: margin(source, bps).unwrap(),
            target,
            rate,
        }
    }

    fn purse(id: &str, available: Money, rate: &str, amount: Money, bps: u32) -> Purse {
        if available.currency() == amount.currency() {
            return Purse {
                id: id.into(),
                available,
                whole: None,
                all: None,
            };
        }
        let whole = price_fixed(amount, rate, available.currency(), bps);
        let short = whole.source.minor() > available.minor();
        Purse {
            id: id.into(),
            available,
            whole: Some(whole),
            all: short
                .then(|| price_all(available, rate, amount.currency(), bps))
                .flatten(),
        }
    }

    /// All routes, with the last part of a split priced.
    fn routes(purses: &[Purse], amount: Money, bps: u32) -> Vec<Route> {
        let mut routes: Vec<Route> = without_conversion(purses, amount)
            .into_iter()
            .chain(conversions(purses))
            .map(|leg| Route::new(vec![leg]).unwrap())
            .collect();
        if let Some(split) = split(purses, amount) {
            let mut legs = split.legs;
            if let Some((wallet, rest)) = split.rest {
                let purse = purses.iter().find(|p| p.id == wallet).unwrap();
                let rate = purse.whole.as_ref().unwrap().rate.to_string();
                let price = price_fixed(rest, &rate, purse.available.currency(), bps);
                legs.push(Leg {
                    wallet,
                    part: Part::Fixed(price),
                });
            }
            routes.push(Route::new(legs).unwrap());
        }
        routes
    }

    fn pick(purses: &[(&str, &str, &str)], amount: &str, bps: u32) -> Option<(Route, String)> {
        let amount = money(amount, "USD");
        let purses: Vec<Purse> = purses
            .iter()
            .map(|(id, available, code)| {
                let rate = match *code {
                    "EUR" => "1.1172",
                    "GBP" => "1.3398896617894",
                    _ => "1",
                };
                purse(id, money(available, code), rate, amount, bps)
            })
            .collect();
        let (chosen, others) = choose(routes(&purses, amount, bps))?;
        let why = why(&chosen, &others, amount);
        Some((chosen, why))
    }

    #[test]
    fn the_cheapest_route_is_taken_and_says_why() {
        // A wallet in the payee's currency costs nothing; of two the one that is left with least.
        let wallets = [
            ("wal_a", "900.00", "USD"),
            ("wal_b", "100.00", "USD"),
            ("wal_c", "900.00", "EUR"),
        ];
        let (route, why) = pick(&wallets, "100.00", 50).unwrap();
        assert_eq!(
            (route.kind, route.cost, route.legs[0].wallet.as_str()),
            (Kind::SameCurrency, 0, "wal_b")
        );
        assert!(why.contains("costs nothing"), "{why}");

        // With a margin it is cheaper to convert less.
        let wallets = [("wal_a", "60.00", "USD"), ("wal_b", "900.00", "EUR")];
        let (route, why) = pick(&wallets, "100.00", 50).unwrap();
        assert_eq!((route.kind, route.legs.len()), (Kind::Split, 2), "{why}");
        assert_eq!(route.legs[1].part.target(), money("40.00", "USD"));
        assert!(
            why.contains("a split over 2 wallets costs 0.21 USD"),
            "{why}"
        );
        assert!(
            why.contains("one conversion from EUR would cost 0.51 USD"),
            "{why}"
        );

        // Without one, only rounding differs, and one payment is better than two.
        let (route, why) = pick(&wallets, "111.72", 0).unwrap();
        assert_eq!((route.kind, route.cost), (Kind::Conversion, 0), "{why}");

        // What no wallet covers alone, several do: the payee's currency first, then the largest.
        let wallets = [
            ("wal_a", "10.00", "EUR"),
            ("wal_b", "5.00", "USD"),
            ("wal_c", "20.00", "GBP"),
        ];
        let (route, why) = pick(&wallets, "40.00", 0).unwrap();
        let legs: Vec<&str> = route.legs.iter().map(|l| l.wallet.as_str()).collect();
        assert_eq!(legs, ["wal_b", "wal_c", "wal_a"], "{why}");
        assert!(why.contains("no other kind of route"), "{why}");
        assert!(pick(&wallets, "43.00", 0).is_none());
    }

    #[test]
    fn what_the_wallets_cover_together_is_known() {
        let amount = money("100.00", "USD");
        let purses = [
            purse("wal_a", money("10.00", "USD"), "1", amount, 0),
            purse("wal_b", money("10.00", "EUR"), "1.1172", amount, 0),
        ];
        assert_eq!(covered(&purses, amount), 2_117);
        assert!(split(&purses, amount).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever is chosen brings exactly the amount, takes no wallet twice or beyond what it
        /// holds, and no other route would have cost less.
        #[test]
        fn a_route_brings_the_amount_and_no_other_is_cheaper(
            wanted in 1i64..1_000_000,
            bps in 0u32..1_000,
            held in proptest::collection::vec((0i64..1_000_000, 0usize..3), 1..7),
        ) {
            let amount = Money::new(wanted, Currency::parse("USD").unwrap()).unwrap();
            let rates = [("USD", "1"), ("EUR", "1.1172"), ("JPY", "0.006359289617486")];
            let purses: Vec<Purse> = held
                .iter()
                .enumerate()
                .map(|(at, (minor, currency))| {
                    let (code, rate) = rates[*currency];
                    let available = Money::new(*minor, Currency::parse(code).unwrap()).unwrap();
                    purse(&format!("wal_{at}"), available, rate, amount, bps)
                })
                .collect();
            let routes = routes(&purses, amount, bps);
            for route in &routes {
                let arrives: i64 = route.legs.iter().map(|l| l.part.target().minor()).sum();
                prop_assert_eq!(arrives, wanted);
                prop_assert!(route.cost >= 0);
                let mut seen = std::collections::BTreeSet::new();
                for leg in &route.legs {
                    prop_assert!(seen.insert(&leg.wallet));
                    let purse = purses.iter().find(|p| p.id == leg.wallet).unwrap();
                    prop_assert!(leg.part.source().minor() <= purse.available.minor());
                }
            }
            let least = routes.iter().map(|r| r.cost).min();
            let enough = covered(&purses, amount) == wanted;
            match choose(routes) {
                Some((chosen, _)) => prop_assert_eq!(Some(chosen.cost), least),
                None => prop_assert!(!enough),
            }
        }
    }
}
