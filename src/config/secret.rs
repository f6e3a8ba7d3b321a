//! Secrets: named in the file, read from a file or an environment variable, never printed.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most a secret may have: a token or password is a line, not a document.
const BYTES_MAX: u64 = 64 * 1_024;

/// A password or token. `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for whoever must send or compare it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

/// Where a secret is said to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'f> {
    /// A file, relative to the configuration's directory.
    File(&'f str),
    /// An environment variable.
    Variable(&'f str),
}

/// Whether secrets are read, or only that they are named is checked.
#[derive(Clone, Debug)]
pub(super) enum Secrets {
    /// Read; relative paths start here.
    Read(PathBuf),
    /// Left alone: every secret is empty. For checks that must not depend on the machine.
    Unread,
}

impl Secrets {
    /// The secret, or why there is none.
    pub(super) fn get(&self, source: Source<'_>) -> Result<Secret, String> {
        let secret = match (self, source) {
            (Self::Unread, _) => return Ok(Secret(String::new())),
            (Self::Read(directory), Source::File(path)) => read(&directory.join(path))?,
            (Self::Read(_), Source::Variable(name)) => {
                // Names with these make the standard library panic on some systems.
                if name.is_empty() || name.contains(['=', '\0']) {
                    return Err("this is not the name of a variable".to_owned());
                }
                std::env::var(name).map_err(|error| match error {
                    std::env::VarError::NotPresent => "the variable is not set".to_owned(),
                    std::env::VarError::NotUnicode(_) => "the variable is not UTF-8".to_owned(),
                })?
            }
        };
        if secret.is_empty() { Err("the secret is empty".to_owned()) } else { Ok(Secret(secret)) }
    }
}

impl Secrets {
    /// A whole file of secrets, or nothing where none is read.
    pub(super) fn text(&self, path: &str) -> Result<Option<String>, String> {
        let Self::Read(directory) = self else { return Ok(None) };
        super::read(&directory.join(path)).map(Some).map_err(|error| match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut secret = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_string(&mut secret));
    match read {
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        Ok(length) if BYTES_MAX < length as u64 => Err(format!("{} is too long for a secret", path.display())),
        Ok(_) => {
            // Exactly one line end: editors add it, and a secret may end in spaces.
            let end = secret.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).len());
            secret.truncate(end.unwrap_or(secret.len()));
            Ok(secret)
        }
    }
}
