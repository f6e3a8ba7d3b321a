//! When a certificate expires: the one field that is shown to people, read from its DER (RFC 5280, section 4.1).
//!
//! It trusts nothing that it reads and decides nothing: whether a certificate is good is for rustls to say.

/// The tags of DER that lead to the field (X.690, section 8).
const SEQUENCE: u8 = 0x30;
const EXPLICIT_VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// From March of the year 0 to 1970.
const DAYS_TO_1970: i64 = 719_468;

/// The last second in which the certificate is valid, since 1970; none if this is no certificate.
pub(super) fn not_after(certificate: &[u8]) -> Option<u64> {
    let (_, mut outer) = element(&mut &*certificate).filter(|(tag, _)| *tag == SEQUENCE)?;
    let (_, mut body) = element(&mut outer).filter(|(tag, _)| *tag == SEQUENCE)?;
    let (first, _) = element(&mut body)?;
    if first == EXPLICIT_VERSION {
        element(&mut body)?; // The serial number, which came first otherwise.
    }
    element(&mut body)?; // The algorithm of the signature.
    element(&mut body)?; // The issuer.
    let (_, mut validity) = element(&mut body).filter(|(tag, _)| *tag == SEQUENCE)?;
    element(&mut validity)?; // From when on.
    let (tag, time) = element(&mut validity)?;
    let time = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    match tag {
        // "where YY is greater than or equal to 50, the year SHALL be interpreted as 19YY"
        UTC_TIME => seconds(if time.get(..2)?.parse::<u8>().ok()? < 50 { "20" } else { "19" }, time),
        GENERALIZED_TIME => seconds("", time),
        _ => None,
    }
}

/// The next element: its tag and what it holds.
fn element<'d>(data: &mut &'d [u8]) -> Option<(u8, &'d [u8])> {
    let (&tag, rest) = data.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        // A certificate of more than 16 MiB is none.
        0x81..=0x83 => {
            let (digits, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = behind;
            digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit))
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(length)?;
    *data = behind;
    Some((tag, content))
}

/// `YYYYMMDDHHMMSS`, of which `century` holds what `time` leaves out, in seconds since 1970; 0 if it is before.
fn seconds(century: &str, time: &str) -> Option<u64> {
    let digits = format!("{century}{time}");
    if digits.len() != 14 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let clock = number(8, 10)? * 3_600 + number(10, 12)? * 60 + number(12, 14)?;
    // Years that begin in March have their leap day last, so that the days of the months before any are 153 in five.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1;
    Some(u64::try_from((days - DAYS_TO_1970) * 86_400 + clock).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_seconds() {
        #[track_caller]
        fn check(century: &str, time: &str, want: Option<u64>) {
            assert_eq!(seconds(century, time), want, "{century}{time}");
        }
        check("19", "700101000000", Some(0));
        check("19", "691231235959", Some(0));
        check("20", "000229120000", Some(951_825_600));
        check("20", "261123184600", Some(1_795_459_560));
        check("", "20380119031408", Some(2_147_483_648));
        check("", "99991231235959", Some(253_402_300_799));
        check("20", "26112318460", None);
        check("20", "2611231846x0", None);
    }

    #[test]
    fn the_end_of_a_certificate_is_found() {
        #[track_caller]
        fn check(year: i32, want: u64) {
            let mut params = rcgen::CertificateParams::new(vec!["quoit.test".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 3, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = params.self_signed(&key).unwrap();
            assert_eq!(not_after(certificate.der()), Some(want), "{year}");
            for cut in 0..certificate.der().len() {
                assert_eq!(not_after(&certificate.der()[..cut]), None, "cut to {cut}");
            }
        }
        check(2030, 1_898_553_600); // UTCTime
        check(2060, 2_845_324_800); // GeneralizedTime
        assert_eq!(not_after(b"neither"), None);
    }
}
