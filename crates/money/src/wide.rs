use std::fmt;

/// An unsigned integer of 256 bits: what the product of an amount, a rate of 38 digits and a power
/// of ten needs. It has the few operations conversion uses and no others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Wide {
    // The order of the fields is the order of the numbers: the derived Ord compares `high` first.
    high: u128,
    low: u128,
}

impl Wide {
    pub(crate) const ZERO: Wide = Wide { high: 0, low: 0 };
    pub(crate) const ONE: Wide = Wide { high: 0, low: 1 };

    pub(crate) fn product(a: u128, b: u128) -> Wide {
        const HALF: u128 = u64::MAX as u128;
        let (a_high, a_low) = (a >> 64, a & HALF);
        let (b_high, b_low) = (b >> 64, b & HALF);
        let low = a_low * b_low;
        let (cross, other) = (a_low * b_high, a_high * b_low);
        // Three numbers below 2^64: their sum cannot overflow.
        let middle = (low >> 64) + (cross & HALF) + (other & HALF);
        Wide {
            high: a_high * b_high + (cross >> 64) + (other >> 64) + (middle >> 64),
            low: (middle << 64) | (low & HALF),
        }
    }

    pub(crate) fn times(self, factor: u64) -> Option<Wide> {
        let low = Wide::product(self.low, u128::from(factor));
        let high = self.high.checked_mul(u128::from(factor))?;
        Some(Wide {
            high: high.checked_add(low.high)?,
            low: low.low,
        })
    }

    /// `self - other`, or `None` when `other` is the larger.
    pub(crate) fn minus(self, other: Wide) -> Option<Wide> {
        let (low, borrow) = self.low.overflowing_sub(other.low);
        let high = self.high.checked_sub(other.high)?;
        Some(Wide {
            high: high.checked_sub(u128::from(borrow))?,
            low,
        })
    }

    pub(crate) fn to_u128(self) -> Option<u128> {
        (self.high == 0).then_some(self.low)
    }

    pub(crate) fn is_zero(self) -> bool {
        self == Wide::ZERO
    }

    fn bits(self) -> u32 {
        if self.high > 0 {
            256 - self.high.leading_zeros()
        } else {
            128 - self.low.leading_zeros()
        }
    }

    fn shifted_left(self, by: u32) -> Wide {
        match by {
            0 => self,
            1..128 => Wide {
                high: (self.high << by) | (self.low >> (128 - by)),
                low: self.low << by,
            },
            _ => Wide {
                high: self.low << (by - 128),
                low: 0,
            },
        }
    }

    fn halved(self) -> Wide {
        Wide {
            high: self.high >> 1,
            low: (self.low >> 1) | (self.high << 127),
        }
    }

    /// Quotient and remainder. The divisor is never zero here: denominators are positive by
    /// construction; a zero would answer as a division by one.
    pub(crate) fn div_rem(self, divisor: Wide) -> (Wide, Wide) {
        if let (Some(a), Some(b)) = (self.to_u128(), divisor.to_u128()) {
            let b = b.max(1);
            let narrow = |low| Wide { high: 0, low };
            return (narrow(a / b), narrow(a % b));
        }
        // Schoolbook division bit by bit: at most 256 rounds, and only for numbers beyond 128 bits.
        let mut rest = self;
        let mut quotient = Wide::ZERO;
        let rounds = (self.bits() + 1).saturating_sub(divisor.bits());
        let mut shifted = divisor.shifted_left(rounds.saturating_sub(1));
        for _ in 0..rounds {
            quotient = quotient.shifted_left(1);
            if let Some(less) = rest.minus(shifted) {
                rest = less;
                quotient.low |= 1;
            }
            shifted = shifted.halved();
        }
        (quotient, rest)
    }

    /// Whether `numerator / self` in lowest terms is a finite decimal: only 2 and 5 divide `self`.
    pub(crate) fn divides_a_power_of_ten(self) -> bool {
        let mut rest = self;
        for prime in [2u128, 5] {
            loop {
                let (quotient, remainder) = rest.div_rem(Wide::from(prime));
                if !remainder.is_zero() || quotient.is_zero() {
                    break;
                }
                rest = quotient;
            }
        }
        rest == Wide::ONE
    }
}

impl From<u128> for Wide {
    fn from(low: u128) -> Wide {
        Wide { high: 0, low }
    }
}

impl fmt::Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHUNK: u128 = 10u128.pow(38);
        match self.to_u128() {
            Some(narrow) => write!(f, "{narrow}"),
            None => {
                let (rest, chunk) = self.div_rem(Wide::from(CHUNK));
                write!(f, "{rest}{:038}", chunk.low)
            }
        }
    }
}

impl fmt::Debug for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(crate) fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// What to do with the digits behind the last one shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    Cut,
    HalfEven,
}

/// `numerator / denominator` as a decimal of at most `significant` digits (`None`: all of them, for
/// fractions known to end). Digits before the point are always all shown; zeros at the end are not.
pub(crate) fn decimal(
    numerator: Wide,
    denominator: Wide,
    significant: Option<usize>,
    tail: Tail,
) -> String {
    let (whole, mut rest) = numerator.div_rem(denominator);
    let mut digits: Vec<u8> = whole.to_string().bytes().map(|byte| byte - b'0').collect();
    let point = digits.len();
    let mut shown = if whole.is_zero() { 0 } else { point };
    while !rest.is_zero() && significant.is_none_or(|most| shown < most) {
        // A rest beyond 2^252 cannot occur with denominators of 155 bits; it would end the digits.
        let Some(ten_times) = rest.times(10) else {
            break;
        };
        let (digit, next) = ten_times.div_rem(denominator);
        let digit = digit.to_u128().map_or(0, |digit| digit as u8);
        if shown > 0 || digit > 0 {
            shown += 1;
        }
        digits.push(digit);
        rest = next;
    }
    // Counted before rounding: 9.99 rounded up gains a digit in front, never behind.
    let fraction_len = digits.len() - point;
    if tail == Tail::HalfEven && rounds_up(rest, denominator, digits.last()) {
        add_one(&mut digits);
    }
    render(&digits, fraction_len)
}

fn rounds_up(rest: Wide, denominator: Wide, last: Option<&u8>) -> bool {
    let odd = last.is_some_and(|digit| digit % 2 == 1);
    match rest.times(2).map(|twice| twice.cmp(&denominator)) {
        Some(std::cmp::Ordering::Greater) => true,
        Some(std::cmp::Ordering::Equal) => odd,
        _ => false,
    }
}

fn add_one(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut().rev() {
        if *digit < 9 {
            *digit += 1;
            return;
        }
        *digit = 0;
    }
    digits.insert(0, 1);
}

fn render(digits: &[u8], fraction_len: usize) -> String {
    let text: String = digits
        .iter()
        .map(|digit| char::from(b'0' + digit))
        .collect();
    let (whole, fraction) = text.split_at(text.len() - fraction_len);
    match fraction.trim_end_matches('0') {
        "" => whole.to_string(),
        fraction => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn products_of_64_bits_are_those_of_u128(a: u64, b: u64) {
            let (a, b) = (u128::from(a), u128::from(b));
            prop_assert_eq!(Wide::product(a, b), Wide::from(a * b));
        }

        #[test]
        fn division_undoes_multiplication(a: u128, b in 1..u128::MAX, rest: u128) {
            let rest = rest % b;
            // a × b + rest, by subtracting what lacks to a × b + b.
            let Some(next) = a.checked_add(1) else { return Ok(()) };
            let number = Wide::product(next, b).minus(Wide::from(b - rest));
            let number = number.expect("rest is at least zero");
            prop_assert_eq!(number.div_rem(Wide::from(b)), (Wide::from(a), Wide::from(rest)));
        }

        #[test]
        fn division_by_wide_numbers_leaves_a_rest_below_them(
            high: u128, low: u128, shift in 0u32..128, by in 1..u128::MAX,
        ) {
            let number = Wide { high, low };
            let divisor = Wide::from(by).shifted_left(shift);
            let (quotient, rest) = number.div_rem(divisor);
            prop_assert!(rest < divisor);
            if let (Some(small), true) = (quotient.to_u128(), shift == 0) {
                prop_assert_eq!(number.minus(rest), Some(Wide::product(small, by)));
            }
        }

        #[test]
        fn numbers_print_in_full(a in 0..10u128.pow(38), b in 1..10u128.pow(38)) {
            let number = Wide::product(b, 10u128.pow(38)).plus_low(a);
            prop_assert_eq!(number.to_string(), format!("{b}{a:038}"));
        }
    }

    impl Wide {
        fn plus_low(self, other: u128) -> Wide {
            let (low, carry) = self.low.overflowing_add(other);
            Wide {
                high: self.high + u128::from(carry),
                low,
            }
        }
    }

    #[test]
    fn only_twos_and_fives_divide_a_power_of_ten() {
        for (number, finite) in [(1, true), (2, true), (40, true), (3, false), (150, false)] {
            assert_eq!(
                Wide::from(number).divides_a_power_of_ten(),
                finite,
                "{number}"
            );
        }
        let large = Wide::product(10u128.pow(38), 10u128.pow(30));
        assert!(large.divides_a_power_of_ten());
    }

    #[test]
    fn a_product_beyond_256_bits_is_none() {
        let large = Wide::product(u128::MAX, u128::MAX);
        assert_eq!(large.times(2), None);
        assert_eq!(Wide::ZERO.minus(Wide::ONE), None);
    }
}
