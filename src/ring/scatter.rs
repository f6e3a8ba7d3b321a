//! Placements that compute an order of the members for each key, without a table: rendezvous and jump.
//!
//! Neighbouring tokens have nothing in common here, so there are no ranges to draw or to move as one.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::{MemberId, RingSpec, hash::mix64};

/// Weighted rendezvous: a member's score for a token is `-weight / ln(u)`, `u` being uniform in (0, 1) and drawn from both
/// (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005). The greatest score wins, the next are the
/// further replicas; a member that leaves changes nothing for the others.
#[derive(Debug)]
pub(super) struct Rendezvous {
    members: Box<[Candidate]>,
    /// With equal weights the score grows with `u`: no logarithm is needed.
    equal_weights: bool,
}

#[derive(Debug)]
struct Candidate {
    id: MemberId,
    seed: u64,
    weight: f64,
}

impl Rendezvous {
    pub(super) fn build(spec: &RingSpec) -> Self {
        let candidate = |(id, member): (MemberId, &super::Member)| Candidate {
            id,
            seed: xxh3_64(member.hashed_name().as_bytes()),
            weight: member.weight.into(),
        };
        let members: Box<[Candidate]> = spec.by_ring_name().into_iter().map(candidate).collect();
        let equal_weights = spec.members.windows(2).all(|pair| matches!(pair, [a, b] if a.weight == b.weight));
        Self { members, equal_weights }
    }

    pub(super) fn primary(&self, token: u64) -> MemberId {
        // The choice of the rank stays outside the loop, which is then four times as fast; ties go as in `best_first`.
        let best = if self.equal_weights {
            self.members.iter().max_by_key(|member| member.draw(token))
        } else {
            self.members.iter().max_by_key(|member| member.score(token))
        };
        best.map_or(MemberId(0), |member| member.id)
    }

    /// Every member with its rank for the token, in no useful order: see [`best_first`].
    pub(super) fn ranks(&self, token: u64) -> SmallVec<[Ranked; 32]> {
        let rank = |member: &Candidate| if self.equal_weights { member.draw(token) } else { member.score(token) };
        (0..).zip(&self.members).map(|(position, member)| (rank(member), position, member.id)).collect()
    }
}

/// A member's rank, its position by name to settle ties in, and its id.
pub(super) type Ranked = (u64, u16, MemberId);

/// All members, the greatest rank first. Only a few are wanted as a rule, so that searching each beats sorting all.
pub(super) fn best_first(ranks: &[Ranked]) -> impl Iterator<Item = MemberId> {
    let first = ranks.iter().max();
    std::iter::successors(first, |last| ranks.iter().filter(|ranked| ranked < last).max()).map(|(.., id)| *id)
}

impl Candidate {
    fn draw(&self, token: u64) -> u64 {
        mix64(token ^ self.seed)
    }

    /// Positive floats compare as their bits do.
    fn score(&self, token: u64) -> u64 {
        (self.weight / minus_ln(self.draw(token))).to_bits()
    }
}

/// `-ln((draw + ½) / 2^52)` of the upper 52 bits. The platform's own logarithm may differ in the last bit between systems,
/// and with it the owner of a key; sums and products of floats do not.
#[expect(clippy::cast_precision_loss, reason = "52 bits and a half fit a double")]
fn minus_ln(draw: u64) -> f64 {
    const TWO_52: f64 = 4_503_599_627_370_496.0;
    const FRACTION_BITS: u64 = (1 << 52) - 1;
    let bits = (((draw >> 12) as f64 + 0.5) / TWO_52).to_bits();
    let mut exponent = f64::from(i32::try_from(bits >> 52).unwrap_or(0) - 1023);
    let mut fraction = f64::from_bits((bits & FRACTION_BITS) | 1.0_f64.to_bits());
    if fraction > std::f64::consts::SQRT_2 {
        // Now the fraction is within a factor √2 of 1, and nothing cancels near 1, where the winners are.
        fraction /= 2.0;
        exponent += 1.0;
    }
    // ln(fraction) = 2 atanh(s) with |s| < 0.172: the terms left out are below the last bit.
    let s = (fraction - 1.0) / (fraction + 1.0);
    let square = s * s;
    let series = (0..11).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    -(exponent * std::f64::consts::LN_2 + 2.0 * s * series)
}

/// Jump consistent hash: the bucket of a number among `buckets` (Lamping and Veach, arXiv:1406.2294).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as in the paper"
)]
pub(super) fn jump(number: u64, buckets: u16) -> MemberId {
    let (mut number, mut bucket, mut next) = (number, 0, 0);
    while next < u64::from(buckets) {
        bucket = next;
        number = number.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1_u64 << 31) as f64 / ((number >> 33) + 1) as f64)) as u64;
    }
    MemberId(u16::try_from(bucket).unwrap_or(0))
}

/// Members in an order of their own for each number: the primary, then what further draws give. The draws do not depend on
/// how many members there are, so a member that is appended displaces few.
pub(super) fn jump_order(number: u64, buckets: u16, count: usize) -> SmallVec<[MemberId; 32]> {
    /// Draws before the rest is taken in list order: even all members are then found by draws for almost every number.
    const DRAWS_PER_MEMBER: u64 = 16;
    let mut order: SmallVec<[MemberId; 32]> = SmallVec::new();
    let draws = (1..=DRAWS_PER_MEMBER * u64::from(buckets))
        .map(|draw| jump(mix64(number.wrapping_add(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15))), buckets));
    for id in std::iter::once(jump(number, buckets)).chain(draws).chain((0..buckets).map(MemberId)) {
        if order.len() >= count {
            break;
        }
        if !order.contains(&id) {
            order.push(id);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(number: u64, buckets: u16, want: u16) {
        assert_eq!(jump(number, buckets), MemberId(want), "{number} among {buckets}");
    }

    /// From the tests of public implementations, `00580_consistent_hashing_functions` and others.
    #[test]
    fn published_jump_vectors() {
        check(1, 1, 0);
        check(42, 57, 43);
        check(0xdead_10cc, 1, 0);
        check(0xdead_10cc, 666, 361);
        check(256, 1024, 520);
        check(0, 60, 0);
        check(1, 60, 55);
        check(2, 60, 46);
    }

    #[test]
    fn the_logarithm_is_one() {
        for draw in (0..10_000).map(mix64).chain([0, u64::MAX, 1 << 63, (1 << 63) - 1]) {
            #[expect(clippy::cast_precision_loss, reason = "52 bits and a half fit a double")]
            let want = -(((draw >> 12) as f64 + 0.5) / 2_f64.powi(52)).ln();
            let got = minus_ln(draw);
            assert!(got > 0.0 && (got - want).abs() <= 1e-13 * want, "{draw}: {got} and not {want}");
        }
    }
}
