//! Passwords as Redis keeps them: their SHA-256, written in hexadecimal.

use std::fmt;

use sha2::{Digest, Sha256};

const BYTES: usize = 32;

/// The hash of a password. `Debug` prints `***`: of a short password the hash tells as much as itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password([u8; BYTES]);

impl Password {
    /// The hash of a password.
    pub fn of(password: &[u8]) -> Self {
        Self(Sha256::digest(password).into())
    }

    /// A hash as rules have it: 64 digits, small letters.
    pub fn from_hex(digits: &str) -> Option<Self> {
        let digits = digits.as_bytes();
        if digits.len() != 2 * BYTES {
            return None;
        }
        let mut hash = [0; BYTES];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(Self(hash))
    }

    /// Compares in a time that tells nothing.
    pub fn is_same(&self, other: &Self) -> bool {
        let differs = self.0.iter().zip(&other.0).fold(0, |differs, (left, right)| differs | (left ^ right));
        std::hint::black_box(differs) == 0
    }

    /// The hash in hexadecimal, which `ACL LIST` and `ACL GETUSER` show.
    pub fn to_hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::new(), |mut hex, byte| {
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
    }
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}
