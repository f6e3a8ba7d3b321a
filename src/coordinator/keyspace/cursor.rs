//! Where a walk over all keys is, and how that becomes the number that a client carries from one `SCAN` to the next. Pure.
//!
//! The number holds everything: no proxy remembers a scan, and every proxy with the same configuration goes on with it.
//! Lowest bits first: 10 of a fingerprint of the layout, 12 that tell one run of the store's process from another, then,
//! as one number in mixed base, the stop, which store is left out, and the store's own cursor. A store's cursor has about as
//! many bits as its number of keys, so that for 60 million keys a store the number stays below 2^53, which clients that
//! read it as a double can tell from its neighbours.
//!
//! # Invariants
//! - Only the end of a walk is 0, and only its beginning is read from 0.
//! - A number that was made under another layout is taken for none, but for one in 1024.

const LAYOUT_BITS: u32 = 10;
const RUN_BITS: u32 = 12;

/// What a fingerprint is cut down to.
pub(super) fn layout_bits(fingerprint: u64) -> u16 {
    u16::try_from(fingerprint & ((1 << LAYOUT_BITS) - 1)).unwrap_or_default()
}

/// What a hash of a store's run is cut down to.
pub(super) fn run_bits(hash: u64) -> u16 {
    u16::try_from(hash & ((1 << RUN_BITS) - 1)).unwrap_or_default()
}

/// Which store of the pool that is walked is left out because it is away, by its stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Away {
    /// None.
    #[default]
    None,
    /// This one.
    Known(usize),
    /// This one, which was counted on by the stops before it: they are walked once more, for the keys that it should have
    /// reported.
    Patched(usize),
}

/// A place in a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Position {
    /// Which store, in the order of the walk.
    pub(super) stop: usize,
    /// Which store is left out.
    pub(super) away: Away,
    /// The store's own cursor; 0 at its beginning.
    pub(super) store: u64,
    /// Which run of the store's process that cursor is of.
    pub(super) run: u16,
}

/// What has to be the same for a number to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Of pools, rings, routes and the level.
    pub(super) bits: u16,
    /// How many stops there are.
    pub(super) stops: usize,
    /// Whether a store may be left out at all.
    pub(super) replicated: bool,
}

impl Layout {
    fn aways(self) -> u128 {
        if self.replicated { 1 + 2 * self.stops as u128 } else { 1 }
    }

    /// The number for a client; none if the store's cursor is too large.
    pub(super) fn pack(self, position: &Position) -> Option<u64> {
        let away = match position.away {
            Away::None => 0,
            Away::Known(stop) => 1 + 2 * stop as u128,
            Away::Patched(stop) => 2 + 2 * stop as u128,
        };
        let place = u128::from(position.store).checked_mul(self.aways())?.checked_add(away)?;
        let place = place.checked_mul(self.stops as u128)?.checked_add(position.stop as u128)?;
        let whole = place.checked_mul(1 << (LAYOUT_BITS + RUN_BITS))?;
        let low = u128::from(self.bits) | u128::from(position.run) << LAYOUT_BITS;
        // Some clients keep it in a signed number.
        u64::try_from(whole | low).ok().filter(|number| i64::try_from(*number).is_ok())
    }

    /// The place that a number stands for; none if it is of another layout.
    pub(super) fn unpack(self, number: u64) -> Option<Position> {
        if number == 0 {
            return Some(Position::default());
        }
        if layout_bits(number) != self.bits || self.stops == 0 {
            return None;
        }
        let run = run_bits(number >> LAYOUT_BITS);
        let place = u128::from(number >> (LAYOUT_BITS + RUN_BITS));
        let (rest, stop) = (place / self.stops as u128, place % self.stops as u128);
        let (store, away) = (rest / self.aways(), rest % self.aways());
        let away_stop = usize::try_from(away.saturating_sub(1) / 2).ok()?;
        let away = match away {
            0 => Away::None,
            odd if odd % 2 == 1 => Away::Known(away_stop),
            _ => Away::Patched(away_stop),
        };
        Some(Position { stop: usize::try_from(stop).ok()?, away, store: u64::try_from(store).ok()?, run })
    }
}

/// The number that a client gave as a cursor. `strtoul`, by which Redis reads it, takes an empty word for 0 and counts
/// negative ones from the other end.
pub(super) fn parse(word: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(word).ok()?;
    if text.is_empty() {
        return Some(0);
    }
    if let Some(digits) = text.strip_prefix('-') {
        return digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse::<u64>().ok())
            .flatten()
            .map(u64::wrapping_neg);
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn away_of(kind: u8, stop: usize) -> Away {
        match kind {
            0 => Away::None,
            1 => Away::Known(stop),
            _ => Away::Patched(stop),
        }
    }

    proptest! {
        #[test]
        fn a_place_comes_back(
            stops in 1_usize..5000, stop in any::<usize>(), away in 0_u8..3, away_stop in any::<usize>(),
            store_bits in 0_u32..64, store in any::<u64>(), run in 0_u16..4096, bits in 0_u16..1024, replicated: bool,
        ) {
            let layout = Layout { bits, stops, replicated };
            let away = if replicated { away_of(away, away_stop % stops) } else { Away::None };
            let store = store.checked_shr(64 - store_bits).unwrap_or(0);
            let position = Position { stop: stop % stops, away, store, run };
            match layout.pack(&position) {
                Some(0) => prop_assert_eq!((position.stop, position.store, run, bits), (0, 0, 0, 0)),
                Some(number) => {
                    prop_assert!(i64::try_from(number).is_ok());
                    prop_assert_eq!(layout.unpack(number), Some(position));
                    let other = Layout { bits: (bits + 1) % 1024, ..layout };
                    prop_assert_eq!(other.unpack(number), None);
                }
                // 41 bits are left for the rest of it.
                None => prop_assert!(
                    u128::from(store + 1) * layout.aways() * stops as u128 >= 1 << 41, "{:?}", position
                ),
            }
        }

        #[test]
        fn any_number_is_a_place_or_none(number: u64, stops in 0_usize..5000, bits in 0_u16..1024, replicated: bool) {
            let layout = Layout { bits, stops, replicated };
            if let Some(position) = layout.unpack(number) {
                prop_assert!(number == 0 || position.stop < stops);
                if let Away::Known(stop) | Away::Patched(stop) = position.away {
                    prop_assert!(stop < stops);
                }
            }
        }
    }

    #[test]
    fn usual_cursors_are_exact_as_doubles() {
        let layout = Layout { bits: 1023, stops: 3, replicated: true };
        let position = Position { stop: 2, away: Away::Patched(2), store: (1 << 26) - 1, run: 4095 };
        assert!(layout.pack(&position).is_some_and(|number| number < 1 << 53));
    }

    #[test]
    fn cursors_are_read_as_the_servers_do() {
        for (word, want) in [
            ("0", Some(0)),
            ("", Some(0)),
            ("17", Some(17)),
            ("+17", Some(17)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            (" 1", None),
            ("1 ", None),
            ("x", None),
            ("-", None),
            ("1x", None),
        ] {
            assert_eq!(parse(word.as_bytes()), want, "{word:?}");
        }
    }
}
