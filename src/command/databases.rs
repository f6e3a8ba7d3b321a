//! The numbers of databases among a request's words, with the errors of Redis in its order. Pure.

use super::absolute::integer;
use super::{Args, Row, reply};

/// What is wrong with a word that is to name a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseError {
    /// It is no number.
    NotAnInteger,
    /// It is a number that no server counts to.
    OutsideI32,
    /// There is no such database.
    OutOfRange,
    /// The key is there already.
    Same,
}

impl DatabaseError {
    /// Appends what a client is told.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::NotAnInteger => reply::not_an_integer(out),
            Self::OutsideI32 => reply::outside_i32(out),
            Self::OutOfRange => reply::no_such_database(out),
            Self::Same => reply::same_object(out),
        }
    }
}

/// The database that a word names, of so many.
///
/// # Errors
/// It names none.
pub fn database(word: &[u8], databases: u16) -> Result<u16, DatabaseError> {
    let number = integer(word).ok_or(DatabaseError::NotAnInteger)?;
    let number = i32::try_from(number).map_err(|_| DatabaseError::OutsideI32)?;
    let found = u16::try_from(number).ok().filter(|number| *number < databases);
    found.ok_or(DatabaseError::OutOfRange)
}

/// Why `MOVE` and `COPY … DB` of a client in database `current` cannot go to a store: their pool has so many databases, and a
/// store may have more.
pub fn refused_database(row: &Row, args: &Args<'_>, current: u16, databases: u16) -> Option<DatabaseError> {
    if row.name == "move" {
        return match database(args.get(2)?, databases) {
            Ok(number) if number == current => Some(DatabaseError::Same),
            Ok(_) => None,
            Err(error) => Some(error),
        };
    }
    let mut at = 3;
    while at < args.len() {
        if args.is_word(at, "REPLACE") {
            at += 1;
            continue;
        }
        // What else may be wrong is for the store to say.
        let word = args.get(at + 1).filter(|_| args.is_word(at, "DB"))?;
        if let Err(error) = database(word, databases) {
            return Some(error);
        }
        at += 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::args::OwnedArgs;
    use super::super::resolve;
    use super::*;

    #[track_caller]
    fn check(request: &str, want: &str) {
        let args = OwnedArgs::new(request.split(' '));
        let row = resolve(&args.view()).unwrap();
        let mut out = Vec::new();
        if let Some(error) = refused_database(row, &args.view(), 3, 8) {
            error.write(&mut out);
        }
        assert_eq!(String::from_utf8_lossy(&out), want, "{request}");
    }

    const NONE: &str = "-ERR DB index is out of range\r\n";
    const NUMBER: &str = "-ERR value is not an integer or out of range\r\n";
    const WIDE: &str = "-ERR value is out of range, value must between -2147483648 and 2147483647\r\n";

    #[test]
    fn numbers_are_those_of_the_pool() {
        check("MOVE k 0", "");
        check("MOVE k 7", "");
        check("MOVE k 3", "-ERR source and destination objects are the same\r\n");
        check("MOVE k 8", NONE);
        check("MOVE k -1", NONE);
        check("MOVE k +1", NUMBER);
        check("MOVE k 01", NUMBER);
        check("MOVE k 99999999999", WIDE);
        check("COPY a b DB 7", "");
        check("COPY a a DB 3", "");
        check("COPY a b db 8", NONE);
        check("COPY a b REPLACE DB 8", NONE);
        check("COPY a b DB 1 REPLACE DB 8", NONE);
        check("COPY a b DB 8 nonsense", NONE);
        check("COPY a b nonsense DB 8", "");
        check("COPY a b DB x", NUMBER);
        check("COPY a b REPLACE DB", "");
    }
}
