//! Labelled subjects, made up: what ordinary payers and three kinds of fraud look like is written
//! down here, not observed. A model trained from it knows these assumptions and nothing else.

use scorer::{Fact, Value};

/// A subject with what is known of it and what it is.
pub struct Subject {
    /// The features that are known.
    pub features: Vec<Fact>,
    /// Who was imitated.
    pub kind: Kind,
}

impl Subject {
    /// The label.
    pub fn is_fraud(&self) -> bool {
        matches!(
            self.kind,
            Kind::Takeover | Kind::Mule | Kind::Testing | Kind::Hidden
        )
    }
}

/// Who pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A person with ordinary payments.
    Everyday,
    /// A firm: larger, more often, to many payees.
    Business,
    /// A person in the first month: looks like fraud in more than one way.
    Newcomer,
    /// A stolen account is emptied to a new payee.
    Takeover,
    /// A young account passes on what it received.
    Mule,
    /// Stolen means of payment are tried with many small payments.
    Testing,
    /// Fraud with nothing unusual about it: no model finds it by these features.
    Hidden,
}

impl Kind {
    /// Every kind, with its share of one hundred thousand subjects.
    pub const ALL: [(Kind, u64); 7] = [
        (Kind::Everyday, 76_000),
        (Kind::Business, 11_000),
        (Kind::Newcomer, 8_000),
        (Kind::Takeover, 1_900),
        (Kind::Mule, 1_600),
        (Kind::Testing, 1_200),
        (Kind::Hidden, 300),
    ];
}

/// What sets a kind apart; shares are of one.
struct Habits {
    /// Mean of the amount's natural logarithm, in euro.
    amount_ln: f64,
    /// Its standard deviation.
    amount_spread: f64,
    /// Mean, exponentially distributed.
    account_age_days: f64,
    /// The longest.
    account_age_days_max: f64,
    /// Shares of tier 0, 1 and 2; the rest is 3.
    tiers: [f64; 3],
    /// Mean, geometrically distributed.
    payments_24h: f64,
    new_payee: f64,
    /// Share that pays at any hour; the others by day.
    any_hour: f64,
    cross_currency: f64,
}

fn habits(kind: Kind) -> Habits {
    match kind {
        Kind::Everyday | Kind::Hidden => Habits {
            amount_ln: 3.7,
            amount_spread: 1.1,
            account_age_days: 700.0,
            account_age_days_max: 4_000.0,
            tiers: [0.05, 0.35, 0.45],
            payments_24h: 1.2,
            new_payee: 0.15,
            any_hour: 0.12,
            cross_currency: 0.12,
        },
        Kind::Business => Habits {
            amount_ln: 6.8,
            amount_spread: 1.3,
            account_age_days: 900.0,
            account_age_days_max: 4_000.0,
            tiers: [0.0, 0.05, 0.35],
            payments_24h: 8.0,
            new_payee: 0.25,
            any_hour: 0.05,
            cross_currency: 0.3,
        },
        Kind::Newcomer => Habits {
            amount_ln: 3.6,
            amount_spread: 1.2,
            account_age_days: 14.0,
            account_age_days_max: 30.0,
            tiers: [0.45, 0.4, 0.1],
            payments_24h: 1.5,
            new_payee: 0.7,
            any_hour: 0.15,
            cross_currency: 0.15,
        },
        Kind::Takeover => Habits {
            amount_ln: 7.0,
            amount_spread: 1.1,
            account_age_days: 600.0,
            account_age_days_max: 4_000.0,
            tiers: [0.08, 0.4, 0.4],
            payments_24h: 4.0,
            new_payee: 0.92,
            any_hour: 0.65,
            cross_currency: 0.4,
        },
        Kind::Mule => Habits {
            amount_ln: 6.4,
            amount_spread: 1.0,
            account_age_days: 18.0,
            account_age_days_max: 60.0,
            tiers: [0.5, 0.4, 0.08],
            payments_24h: 3.5,
            new_payee: 0.85,
            any_hour: 0.4,
            cross_currency: 0.5,
        },
        Kind::Testing => Habits {
            amount_ln: 0.8,
            amount_spread: 0.8,
            account_age_days: 12.0,
            account_age_days_max: 90.0,
            tiers: [0.75, 0.2, 0.04],
            payments_24h: 26.0,
            new_payee: 0.75,
            any_hour: 0.6,
            cross_currency: 0.25,
        },
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers everywhere and in every release, which no
/// library of distributions promises.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 and up, below 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn happens(&mut self, share: f64) -> bool {
        self.share() < share
    }

    fn below(&mut self, bound: u64) -> u64 {
        // The bias of the remainder is below bound / 2^64.
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }

    /// Mean 0, standard deviation 1, as the sum of twelve shares.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.share()).sum::<f64>() - 6.0
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        // `libm` is the same code on every machine; the platform's `ln` is not.
        -mean * libm::log(1.0 - self.share())
    }
}

/// `count` subjects from this seed.
pub fn subjects(seed: u64, count: usize) -> Vec<Subject> {
    let mut random = Random(seed);
    (0..count).map(|_| subject(&mut random)).collect()
}

fn kind(random: &mut Random) -> Kind {
    let mut at = random.below(Kind::ALL.iter().map(|(_, share)| share).sum());
    for (kind, share) in Kind::ALL {
        if at < share {
            return kind;
        }
        at -= share;
    }
    Kind::Everyday
}

fn tier(random: &mut Random, shares: [f64; 3]) -> i64 {
    let at = random.share();
    let mut sum = 0.0;
    shares
        .iter()
        .position(|share| {
            sum += share;
            at < sum
        })
        .map_or(3, |tier| tier as i64)
}

fn hour(random: &mut Random, any_hour: f64) -> i64 {
    if random.happens(any_hour) {
        return random.below(24) as i64;
    }
    // By day: around two in the afternoon, from early morning to late evening.
    let hour = 14.0 + 3.5 * random.normal();
    (hour as i64).clamp(0, 23)
}

/// Source and target currency.
fn currencies(random: &mut Random, crosses: bool) -> (&'static str, &'static str) {
    let same = ["EUR", "EUR", "EUR", "USD", "USD", "GBP", "PLN", "CHF"];
    let cross = [
        ("EUR", "USD"),
        ("EUR", "USD"),
        ("USD", "EUR"),
        ("EUR", "GBP"),
        ("GBP", "EUR"),
        ("EUR", "PLN"),
        ("USD", "JPY"),
        ("EUR", "CHF"),
    ];
    match crosses {
        true => random.pick(&cross),
        false => {
            let code = random.pick(&same);
            (code, code)
        }
    }
}

/// What the shipped rules say of the amount, and now and then nothing because they cannot be asked.
fn reason_codes(random: &mut Random, amount_eur_minor: i64) -> Vec<String> {
    let code = match amount_eur_minor {
        _ if random.happens(0.004) => "rules_unavailable",
        5_000_001.. => "amount_over_limit",
        1_000_001.. => "amount_over_review_limit",
        _ => return Vec::new(),
    };
    vec![code.into()]
}

/// A person's guess when opening the case: right more often than not.
fn priority(random: &mut Random, fraud: bool) -> &'static str {
    let at = random.share();
    let shares = match fraud {
        true => [(0.15, "low"), (0.65, "normal"), (0.92, "high")],
        false => [(0.35, "low"), (0.88, "normal"), (0.985, "high")],
    };
    shares
        .iter()
        .find(|(share, _)| at < *share)
        .map_or("urgent", |(_, name)| name)
}

fn subject(random: &mut Random) -> Subject {
    let kind = kind(random);
    let habits = habits(kind);
    let euro = libm::exp(habits.amount_ln + habits.amount_spread * random.normal());
    let amount = (euro * 100.0) as i64 + 1;
    let payments = random
        .exponential(habits.payments_24h)
        .clamp(0.0, 500.0)
        .round() as i64;
    // Others of the last day are about as large, none exactly.
    let amount_24h = (amount as f64 * payments as f64 * (0.3 + 0.9 * random.share())) as i64;
    let crosses = random.happens(habits.cross_currency);
    let (source, target) = currencies(random, crosses);
    let fraud = !matches!(kind, Kind::Everyday | Kind::Business | Kind::Newcomer);
    let integer = |name, n| (name, Value::Integer(n));
    let known = [
        integer("amount_eur_minor", amount),
        ("cross_currency", Value::Boolean(crosses)),
        ("currency", Value::Text(source.into())),
        ("target_currency", Value::Text(target.into())),
        integer("payments_24h", payments),
        integer("amount_24h_minor", amount_24h),
        (
            "new_payee",
            Value::Boolean(random.happens(habits.new_payee)),
        ),
        integer("hour_utc", hour(random, habits.any_hour)),
        ("reason_codes", Value::Texts(reason_codes(random, amount))),
        (
            "priority",
            // Nobody guesses at fraud that looks like nothing.
            Value::Text(priority(random, fraud && kind != Kind::Hidden).into()),
        ),
        integer(
            "payer_account_age_days",
            random
                .exponential(habits.account_age_days)
                .min(habits.account_age_days_max) as i64,
        ),
        integer("payer_tier", tier(random, habits.tiers)),
    ];
    // The profile is not known of one payer in ten, and any feature may be missing; neither says
    // anything about fraud.
    let has_profile = random.happens(0.9);
    let features = known
        .into_iter()
        .filter(|(name, _)| !random.happens(0.06) && (has_profile || !name.starts_with("payer_")))
        .map(|(name, value)| Fact {
            name: name.into(),
            value,
        })
        .collect();
    Subject { features, kind }
}
