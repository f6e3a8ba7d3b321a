//! Requests with their relative times made absolute, so that every replica, whenever it runs them, gives its copy the
//! same end: `EXPIRE key 10` becomes `PEXPIREAT key <now + 10 s>`.
//!
//! # Invariants
//!
//! * What the store would refuse stays as it came, so that the error is the store's own.
//! * A time that has passed already stays in the past whatever the store's clock says: the key is deleted at once, and
//!   the reply is that of the relative form.
//!
//! It deliberately leaves absolute times in seconds alone: they say the same to everybody.

use super::{Args, Row};
use smallvec::SmallVec;

/// Field times past this are refused by Redis (46 bits of ms) in words that name the verb, so they are not rewritten.
const FIELD_TIME_MS_MAX: u64 = 1 << 46;

/// In the past for every clock, and positive, as some verbs ask.
const LONG_AGO: u64 = 1;

/// The words of a request that is not quite the one that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words<'a>(SmallVec<[Word<'a>; 8]>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'a> {
    Given(&'a [u8]),
    Number(Decimal),
}

impl<'a> Words<'a> {
    /// The request as it came.
    pub fn as_given(args: &Args<'a>) -> Self {
        Self(args.iter().map(Word::Given).collect())
    }

    /// How many, the verb among them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is not even a verb.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their bytes, the verb first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.iter().map(|word| match word {
            Word::Given(bytes) => bytes,
            Word::Number(decimal) => decimal.bytes(),
        })
    }

    fn replace(&mut self, at: usize, word: Word<'a>) {
        if let Some(place) = self.0.get_mut(at) {
            *place = word;
        }
    }
}

/// A number in digits, without the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decimal {
    digits: [u8; 20],
    from: u8,
}

impl Decimal {
    fn new(number: u64) -> Self {
        let (mut digits, mut from, mut rest) = ([b'0'; 20], 20_u8, number);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
            from -= 1;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        Self { digits, from }
    }

    fn bytes(&self) -> &[u8] {
        self.digits.get(usize::from(self.from)..).unwrap_or_default()
    }
}

/// An integer as the servers read one: no `+`, no leading zero, no blank.
pub(super) fn integer(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let is_canonical = bytes == b"0" || digits.first().is_some_and(|first| (b'1'..=b'9').contains(first));
    // `parse` says no to other bytes than digits, and to what does not fit.
    if is_canonical { std::str::from_utf8(bytes).ok()?.parse().ok() } else { None }
}

/// How a number says a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clock {
    is_relative: bool,
    ms_per_unit: i64,
}

impl Clock {
    pub(super) const SECONDS_FROM_NOW: Self = Self { is_relative: true, ms_per_unit: 1000 };
    pub(super) const MS_FROM_NOW: Self = Self { is_relative: true, ms_per_unit: 1 };
    pub(super) const SECONDS: Self = Self { is_relative: false, ms_per_unit: 1000 };
    pub(super) const MS: Self = Self { is_relative: false, ms_per_unit: 1 };

    /// What the option word means, if it is one of a time.
    pub(super) fn of_option(word: &[u8]) -> Option<Self> {
        // Lengths first: values and fields pass here too.
        match word.len() {
            2 if word.eq_ignore_ascii_case(b"EX") => Some(Self::SECONDS_FROM_NOW),
            2 if word.eq_ignore_ascii_case(b"PX") => Some(Self::MS_FROM_NOW),
            4 if word.eq_ignore_ascii_case(b"EXAT") => Some(Self::SECONDS),
            4 if word.eq_ignore_ascii_case(b"PXAT") => Some(Self::MS),
            _ => None,
        }
    }

    /// The time in ms since the epoch; none where it does not fit the servers' 64 bits or is before the epoch.
    pub(super) fn absolute_ms(self, number: i64, now_ms: u64) -> Option<u64> {
        let span = number.checked_mul(self.ms_per_unit)?;
        let base = if self.is_relative { i64::try_from(now_ms).ok()? } else { 0 };
        u64::try_from(base.checked_add(span)?).ok()
    }
}

/// The request with absolute times, or none where it is right as it came.
pub fn absolute<'a>(row: &Row, args: &Args<'a>, now_ms: u64) -> Option<Words<'a>> {
    match row.name {
        "set" => options(args, 3, now_ms, u64::MAX),
        "getex" => options(args, 2, now_ms, u64::MAX),
        "hgetex" | "hsetex" => options(args, 2, now_ms, FIELD_TIME_MS_MAX),
        "msetex" => options(args, behind_counted(args, 1, 2)?, now_ms, u64::MAX),
        "setex" => set_with_time(args, Clock::SECONDS_FROM_NOW, now_ms),
        "psetex" => set_with_time(args, Clock::MS_FROM_NOW, now_ms),
        "expire" => expire(args, Clock::SECONDS_FROM_NOW, now_ms),
        "pexpire" => expire(args, Clock::MS_FROM_NOW, now_ms),
        "hexpire" => expire_fields(args, Clock::SECONDS_FROM_NOW, now_ms),
        "hpexpire" => expire_fields(args, Clock::MS_FROM_NOW, now_ms),
        "restore" => restore(args, now_ms),
        _ => None,
    }
}

/// `EX` and `PX` among the options from an argument on become `PXAT`. One of them that the store would refuse leaves
/// the whole request alone.
fn options<'a>(args: &Args<'a>, first: usize, now_ms: u64, max_ms: u64) -> Option<Words<'a>> {
    let mut words = None;
    let mut at = first;
    while let Some(word) = args.get(at) {
        match Clock::of_option(word) {
            Some(clock) if clock.is_relative => {
                let number = args.get(at + 1).and_then(integer).filter(|number| *number > 0)?;
                let time_ms = clock.absolute_ms(number, now_ms).filter(|time_ms| *time_ms < max_ms)?;
                let words = words.get_or_insert_with(|| Words::as_given(args));
                words.replace(at, Word::Given(b"PXAT"));
                words.replace(at + 1, Word::Number(Decimal::new(time_ms)));
                at += 2;
            }
            Some(_) => at += 2,
            None => at = behind_option(args, at, word),
        }
    }
    words
}

/// Where the next option stands: past the arguments of this one, which may look like options.
fn behind_option(args: &Args<'_>, at: usize, word: &[u8]) -> usize {
    if word.eq_ignore_ascii_case(b"FIELDS") {
        // Fields of HSETEX come with their values.
        let step = if args.is_word(0, "HSETEX") { 2 } else { 1 };
        return behind_counted(args, at + 1, step).unwrap_or(args.len());
    }
    let is_comparison = [&b"IFEQ"[..], b"IFNE", b"IFDEQ", b"IFDNE"].iter().any(|name| word.eq_ignore_ascii_case(name));
    at + if is_comparison { 2 } else { 1 }
}

/// The argument behind a count and that many groups of `step`.
fn behind_counted(args: &Args<'_>, at: usize, step: usize) -> Option<usize> {
    let count = usize::try_from(integer(args.get(at)?)?).ok()?;
    count.checked_mul(step)?.checked_add(at + 1)
}

/// `SETEX key seconds value` as `SET key value PXAT time`.
fn set_with_time<'a>(args: &Args<'a>, clock: Clock, now_ms: u64) -> Option<Words<'a>> {
    let number = args.get(2).and_then(integer).filter(|number| *number > 0)?;
    let time_ms = Decimal::new(clock.absolute_ms(number, now_ms)?);
    let given = [b"SET", args.get(1)?, args.get(3)?, b"PXAT"].map(Word::Given);
    Some(Words(given.into_iter().chain([Word::Number(time_ms)]).collect()))
}

/// `EXPIRE key seconds …` as `PEXPIREAT key time …`.
fn expire<'a>(args: &Args<'a>, clock: Clock, now_ms: u64) -> Option<Words<'a>> {
    let number = args.get(2).and_then(integer)?;
    // A time too far back for 64 bits is refused by some servers.
    number.checked_mul(clock.ms_per_unit)?;
    let time_ms = if number > 0 { clock.absolute_ms(number, now_ms)? } else { LONG_AGO };
    Some(with_verb_and_time(args, b"PEXPIREAT", time_ms))
}

/// `HEXPIRE key seconds …` as `HPEXPIREAT key time …`. Unlike `EXPIRE` it refuses negative times.
fn expire_fields<'a>(args: &Args<'a>, clock: Clock, now_ms: u64) -> Option<Words<'a>> {
    let number = args.get(2).and_then(integer).filter(|number| *number >= 0)?;
    let time_ms = if number > 0 { clock.absolute_ms(number, now_ms)? } else { LONG_AGO };
    (time_ms < FIELD_TIME_MS_MAX).then(|| with_verb_and_time(args, b"HPEXPIREAT", time_ms))
}

fn with_verb_and_time<'a>(args: &Args<'a>, verb: &'static [u8], time_ms: u64) -> Words<'a> {
    let mut words = Words::as_given(args);
    words.replace(0, Word::Given(verb));
    words.replace(2, Word::Number(Decimal::new(time_ms)));
    words
}

/// `RESTORE key ttl payload …` gets `ABSTTL`.
fn restore<'a>(args: &Args<'a>, now_ms: u64) -> Option<Words<'a>> {
    let ttl = args.get(2).and_then(integer).filter(|ttl| *ttl > 0)?;
    if (4..args.len()).any(|at| args.is_word(at, "ABSTTL")) {
        return None;
    }
    let time_ms = Clock::MS_FROM_NOW.absolute_ms(ttl, now_ms)?;
    let mut words = Words::as_given(args);
    words.replace(2, Word::Number(Decimal::new(time_ms)));
    words.0.push(Word::Given(b"ABSTTL"));
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::super::args::OwnedArgs;
    use super::super::resolve;
    use super::*;

    /// A request and what it becomes at 1,000,000 ms; `=` where it stays as it came.
    #[track_caller]
    fn check(request: &str, want: &str) {
        let args = OwnedArgs::new(request.split(' '));
        let row = resolve(&args.view()).unwrap();
        let words = absolute(row, &args.view(), 1_000_000);
        let got = words.map_or("=".to_owned(), |words| {
            assert_eq!(words.len(), words.iter().len());
            let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            words.join(" ")
        });
        assert_eq!(got, want, "{request}");
    }

    #[test]
    fn times_from_now_become_absolute() {
        check("SET k v EX 10", "SET k v PXAT 1010000");
        check("set k v nx px 10 get", "set k v nx PXAT 1000010 get");
        check("SET k EX EX 10", "SET k EX PXAT 1010000");
        check("SET k v EX 1 EX 2", "SET k v PXAT 1001000 PXAT 1002000");
        check("SET k v IFEQ EX EX 10", "SET k v IFEQ EX PXAT 1010000");
        check("SETEX k 10 v", "SET k v PXAT 1010000");
        check("PSETEX k 10 v", "SET k v PXAT 1000010");
        check("GETEX k EX 10", "GETEX k PXAT 1010000");
        check("EXPIRE k 10", "PEXPIREAT k 1010000");
        check("EXPIRE k 10 GT", "PEXPIREAT k 1010000 GT");
        check("PEXPIRE k 10 NX", "PEXPIREAT k 1000010 NX");
        check("HEXPIRE k 10 NX FIELDS 1 f", "HPEXPIREAT k 1010000 NX FIELDS 1 f");
        check("HPEXPIRE k 10 FIELDS 1 f", "HPEXPIREAT k 1000010 FIELDS 1 f");
        check("HSETEX k FNX EX 10 FIELDS 1 EX PX", "HSETEX k FNX PXAT 1010000 FIELDS 1 EX PX");
        check("HSETEX k FIELDS 1 EX 5 PX 7", "HSETEX k FIELDS 1 EX 5 PXAT 1000007");
        check("HGETEX k PX 10 FIELDS 2 EX PX", "HGETEX k PXAT 1000010 FIELDS 2 EX PX");
        check("MSETEX 2 a EX b PX EX 1", "MSETEX 2 a EX b PX PXAT 1001000");
        check("RESTORE k 10 x", "RESTORE k 1000010 x ABSTTL");
        check("RESTORE k 10 x REPLACE FREQ 1", "RESTORE k 1000010 x REPLACE FREQ 1 ABSTTL");
    }

    #[test]
    fn a_time_that_has_passed_is_past_for_every_clock() {
        check("EXPIRE k 0", "PEXPIREAT k 1");
        check("EXPIRE k -1 LT", "PEXPIREAT k 1 LT");
        check("PEXPIRE k -9223372036854775808", "PEXPIREAT k 1");
        check("HEXPIRE k 0 FIELDS 1 f", "HPEXPIREAT k 1 FIELDS 1 f");
    }

    #[test]
    fn absolute_times_and_others_stay() {
        check("GET k", "=");
        check("SET k v", "=");
        check("SET k v KEEPTTL", "=");
        check("SET k v EXAT 10", "=");
        check("SET k v PXAT 10 NX", "=");
        check("GETEX k PERSIST", "=");
        check("EXPIREAT k 10", "=");
        check("PEXPIREAT k 10", "=");
        check("HEXPIREAT k 10 FIELDS 1 f", "=");
        check("HGETEX k FIELDS 2 EX 10", "=");
        check("RESTORE k 0 x", "=");
        check("RESTORE k 10 x ABSTTL", "=");
        check("INCR k", "=");
    }

    #[test]
    fn what_the_store_would_refuse_stays() {
        check("SET k v EX", "=");
        check("SET k v EX 0", "=");
        check("SET k v EX -1", "=");
        check("SET k v EX 010", "=");
        check("SET k v EX +1", "=");
        check("SET k v EX 9223372036854776", "=");
        check("SET k v PX 9223372036854775807", "=");
        check("SET k v PX 9223372036854775808", "=");
        check("SETEX k 0 v", "=");
        check("SETEX k x v", "=");
        check("PSETEX k 9223372036854775807 v", "=");
        check("EXPIRE k x", "=");
        check("EXPIRE k 9223372036854775807", "=");
        check("EXPIRE k -9223372036854775808", "=");
        check("PEXPIRE k 9223372036854775807", "=");
        check("HEXPIRE k -1 FIELDS 1 f", "=");
        check("HEXPIRE k 999999999999 FIELDS 1 f", "=");
        check("HSETEX k EX 999999999999 FIELDS 1 f v", "=");
        check("HGETEX k FIELDS x EX 1", "=");
        check("RESTORE k -1 x", "=");
        check("RESTORE k 9223372036854775807 x", "=");
        check("MSETEX x a 1 EX 1", "=");
    }

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 1, 9, 10, 1_000_000, u64::MAX] {
            assert_eq!(Decimal::new(number).bytes(), number.to_string().as_bytes());
        }
    }

    #[test]
    fn integers_are_read_as_the_servers_read_them() {
        for (text, want) in [("0", Some(0)), ("-1", Some(-1)), ("9223372036854775807", Some(i64::MAX))] {
            assert_eq!(integer(text.as_bytes()), want, "{text}");
        }
        for text in ["", "-", "-0", "00", "01", "+1", " 1", "1 ", "1.0", "9223372036854775808", "--1"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }
}
