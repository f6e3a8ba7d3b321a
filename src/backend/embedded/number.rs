//! Numbers as Redis reads and writes them: strict integers, 17-digit doubles, the decimals of INCRBYFLOAT.

use super::reply::{Failure, NOT_FLOAT, NOT_INTEGER};

/// An integer in its one canonical spelling: no sign `+`, no leading zero, no blank, as Redis's `string2ll`.
pub(super) fn parse_integer(bytes: &[u8]) -> Result<i64, Failure> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let canonical = match digits {
        [b'0'] => digits.len() == bytes.len(),
        [] | [b'0', ..] => false,
        _ => digits.iter().all(u8::is_ascii_digit),
    };
    let text = if canonical { str::from_utf8(bytes).ok() } else { None };
    text.and_then(|text| text.parse().ok()).ok_or(NOT_INTEGER)
}

/// The number of a database: there is only 0.
pub(super) fn parse_database(bytes: &[u8]) -> Result<(), Failure> {
    match i32::try_from(parse_integer(bytes)?) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::fixed("ERR DB index is out of range")),
        Err(_) => Err(Failure::fixed("ERR value is out of range, value must between -2147483648 and 2147483647")),
    }
}

/// A double that is not NaN; `inf` with and without sign is one.
pub(super) fn parse_double(bytes: &[u8]) -> Result<f64, Failure> {
    let text = str::from_utf8(bytes).map_err(|_| NOT_FLOAT)?;
    match text.parse::<f64>() {
        Ok(value) if !value.is_nan() => Ok(value),
        _ => Err(NOT_FLOAT),
    }
}

/// C's `%.17g`, the form in which Redis 7.0 writes scores and Lua numbers become arguments.
pub(super) fn format_double(value: f64) -> String {
    const DIGITS: i32 = 17;
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        return trim_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs())
}

fn trim_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

/// The sum that INCRBYFLOAT stores. Redis adds 80-bit floats and prints 17 decimals; here the terms and their exact
/// decimal sum are rounded to the 64 bits that such a float holds. Other spellings (exponents, more decimals) fall back to doubles.
pub(super) fn add_decimals(current: &[u8], increment: &[u8]) -> Result<Vec<u8>, Failure> {
    let (left, right) = (parse_double(current)?, parse_double(increment)?);
    let exact = parse_fixed(current).zip(parse_fixed(increment)).and_then(|(a, b)| a.checked_add(b));
    if let Some(sum) = exact.and_then(|sum| round_to_extended(sum.unsigned_abs()).map(|magnitude| (sum, magnitude))) {
        let (sign, magnitude) = (if sum.0 < 0 { "-" } else { "" }, sum.1);
        let text = format!("{sign}{}.{:017}", magnitude / FIXED_ONE, magnitude % FIXED_ONE);
        return Ok(trim_zeros(&text).as_bytes().to_vec());
    }
    let sum = left + right;
    if !sum.is_finite() {
        return Err(Failure::fixed("ERR increment would produce NaN or Infinity"));
    }
    Ok(trim_zeros(&format!("{sum:.17}")).as_bytes().to_vec())
}

/// Decimals are counted in units of 10⁻¹⁷.
const FIXED_DECIMALS: usize = 17;
const FIXED_ONE: u128 = 10_u128.pow(17);

fn parse_fixed(bytes: &[u8]) -> Option<i128> {
    let text = str::from_utf8(bytes).ok()?;
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() > 20 || fraction.len() > FIXED_DECIMALS || !plain(whole) || !plain(fraction) {
        return None;
    }
    let magnitude = format!("{whole}{fraction:0<FIXED_DECIMALS$}").parse().ok()?;
    let magnitude = i128::try_from(round_to_extended(magnitude)?).ok()?;
    Some(if negative { -magnitude } else { magnitude })
}

/// The nearest number with 64 significant bits, ties to even, again in units of 10⁻¹⁷. `None` beyond 64 bits.
fn round_to_extended(magnitude: u128) -> Option<u128> {
    let whole_bits = 128 - (magnitude / FIXED_ONE).leading_zeros();
    if whole_bits == 0 {
        return Some(magnitude);
    }
    let fraction_bits = 64_u32.checked_sub(whole_bits)?;
    let round = |numerator: u128, divisor: u128| {
        let (quotient, rest) = (numerator / divisor, numerator % divisor);
        let up = rest * 2 > divisor || rest * 2 == divisor && quotient % 2 == 1;
        quotient + u128::from(up)
    };
    // Under 2¹²²: the whole bits and those of the fraction make 64, and a unit takes 57.
    let binary = round(magnitude << fraction_bits, FIXED_ONE);
    Some(round(binary * FIXED_ONE, 1 << fraction_bits))
}

/// A range of list or rank positions, from Redis's signed, inclusive, clamped indexes. `None` is the empty range.
pub(super) fn index_range(start: i64, stop: i64, len: usize) -> Option<std::ops::Range<usize>> {
    let len_signed = i64::try_from(len).ok()?;
    let absolute = |index: i64| if index < 0 { (index.saturating_add(len_signed)).max(-1) } else { index };
    let (start, stop) = (absolute(start).max(0), absolute(stop).min(len_signed - 1));
    if start > stop {
        return None;
    }
    Some(usize::try_from(start).ok()?..usize::try_from(stop).ok()? + 1)
}

/// The position that a signed index names, if it is inside.
pub(super) fn index_at(index: i64, len: usize) -> Option<usize> {
    let signed = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(signed).ok().filter(|&position| position < len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_like_printf() {
        let check = |value: f64, want: &str| assert_eq!(format_double(value), want);
        check(3.0, "3");
        check(0.1, "0.10000000000000001");
        check(-0.0, "-0");
        check(1e17, "1e+17");
        check(1.5e-7, "1.4999999999999999e-07");
        check(f64::NEG_INFINITY, "-inf");
        check(12_345_678_901_234_567.0, "12345678901234568");
    }

    #[test]
    fn integers_are_canonical() {
        for bad in ["", "-", "-0", "01", "+1", " 1", "1 ", "9223372036854775808"] {
            assert_eq!(parse_integer(bad.as_bytes()), Err(NOT_INTEGER), "{bad}");
        }
        assert_eq!(parse_integer(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_integer(b"0"), Ok(0));
    }

    #[test]
    fn decimals_add_exactly() {
        assert_eq!(add_decimals(b"0.1", b"0.2").unwrap(), b"0.3");
        assert_eq!(add_decimals(b"-1.5", b"1.5").unwrap(), b"0");
        assert_eq!(add_decimals(b"1e3", b"5").unwrap(), b"1005");
        // As Redis answers: the sum is a tie between two 80-bit floats.
        assert_eq!(add_decimals(b"9223372036854775807", b"-1.25").unwrap(), b"9223372036854775806");
    }
}
