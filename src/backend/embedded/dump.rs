//! DUMP and RESTORE. The payload is our own: a type byte, length-prefixed parts, a version, CRC64 of all before.
//! Only an embedded store reads it; to Redis its version is too new, which Redis says by name.

use super::reply::Failure;
use super::value::{End, Hash, List, Set, SortedSet, Value};

/// Above every RDB version in use (Redis 7.0: 10, 8.2: 12, Valkey 9: 80), so that no server takes it for its own.
const VERSION: u16 = 0x7101;

const WRONG_FOOTER: Failure = Failure::fixed("ERR DUMP payload version or checksum are wrong");
const WRONG_BODY: Failure = Failure::fixed("ERR Bad data format");

pub(super) fn dump(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.bytes() + 16);
    match value {
        Value::String(text) => {
            out.push(0);
            part(&mut out, text);
        }
        Value::List(list) => {
            out.push(1);
            list.items().iter().for_each(|item| part(&mut out, item));
        }
        Value::Set(set) => {
            out.push(2);
            set.members().iter().for_each(|member| part(&mut out, member));
        }
        Value::SortedSet(sorted) => {
            out.push(3);
            for (score, member) in sorted.ranked() {
                part(&mut out, &score.to_le_bytes());
                part(&mut out, member);
            }
        }
        Value::Hash(hash) => {
            out.push(4);
            for (field, value) in hash.fields() {
                part(&mut out, field);
                part(&mut out, value);
            }
        }
    }
    out.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc64(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The value of a payload.
///
/// # Errors
/// When the footer does not fit the bytes, or the bytes are no value: an empty collection, half a pair.
pub(super) fn restore(payload: &[u8]) -> Result<Value, Failure> {
    let (checked, crc) = payload.split_last_chunk::<8>().ok_or(WRONG_FOOTER)?;
    let (body, version) = checked.split_last_chunk::<2>().ok_or(WRONG_FOOTER)?;
    if u16::from_le_bytes(*version) != VERSION || u64::from_le_bytes(*crc) != crc64(checked) {
        return Err(WRONG_FOOTER);
    }
    let (kind, rest) = body.split_first().ok_or(WRONG_BODY)?;
    let parts = parts(rest)?;
    let value = match (kind, parts.as_slice()) {
        (0, [text]) => Value::String(text.to_vec()),
        (1, items) => {
            let mut list = List::default();
            for item in items {
                list.push(End::Right, item.to_vec());
            }
            Value::List(list)
        }
        (2, members) => {
            let mut set = Set::default();
            for member in members {
                set.insert(member);
            }
            Value::Set(set)
        }
        (3, parts) => {
            let mut sorted = SortedSet::default();
            for [score, member] in pairs(parts)? {
                let score = f64::from_le_bytes((*score).try_into().map_err(|_| WRONG_BODY)?);
                if score.is_nan() {
                    return Err(WRONG_BODY);
                }
                sorted.insert(member, score);
            }
            Value::SortedSet(sorted)
        }
        (4, parts) => {
            let mut hash = Hash::default();
            for [field, value] in pairs(parts)? {
                hash.insert(field, value.to_vec());
            }
            Value::Hash(hash)
        }
        _ => return Err(WRONG_BODY),
    };
    if value.is_gone() { Err(WRONG_BODY) } else { Ok(value) }
}

fn pairs<'a, 'b>(parts: &'b [&'a [u8]]) -> Result<&'b [[&'a [u8]; 2]], Failure> {
    let (pairs, odd) = parts.as_chunks::<2>();
    if odd.is_empty() { Ok(pairs) } else { Err(WRONG_BODY) }
}

fn parts(mut rest: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk::<8>().ok_or(WRONG_BODY)?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| WRONG_BODY)?;
        let (part, tail) = tail.split_at_checked(len).ok_or(WRONG_BODY)?;
        parts.push(part);
        rest = tail;
    }
    Ok(parts)
}

/// CRC-64/REDIS: polynomial `ad93d23594c935a9` reflected, no initial or final xor (the RDB format's checksum).
fn crc64(bytes: &[u8]) -> u64 {
    const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
    const TABLE: [u64; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u64, 0);
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
                bit += 1;
            }
            #[expect(clippy::indexing_slicing, reason = "checked when the constant is made")]
            {
                table[byte] = crc;
            }
            byte += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        let place = usize::from(low ^ byte);
        TABLE.get(place).copied().unwrap_or_default() ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_redis_s() {
        // The check value in the catalogue of CRC algorithms for CRC-64/REDIS.
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_damaged_payload_is_refused() {
        let payload = dump(&Value::String(b"hello".to_vec()));
        for place in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[place] ^= 0x10;
            assert!(restore(&damaged).is_err(), "byte {place}");
        }
        for len in 0..payload.len() {
            assert!(restore(&payload[..len]).is_err(), "cut at {len}");
        }
    }
}
