//! The rule language: a line of rules to words, a word to a change of a user.

use std::ops::Range;

use super::selector::Wrong;
use super::{Password, Sanitize, Selector, User};

/// Why a rule cannot be taken. `Display` says it in the servers' words, and never holds the rule: that may be a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It is none.
    #[error("Syntax error")]
    Syntax,
    /// It names a command, subcommand or category that does not exist.
    #[error("Unknown command or category name in ACL")]
    UnknownCommand,
    /// It allows a first argument where there are subcommands.
    #[error("Allowing first-arg of a subcommand is not supported")]
    FirstArgumentOfSubcommand,
    /// It adds to all keys.
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try \
         'resetkeys' to start with an empty list of patterns"
    )]
    KeyAfterAll,
    /// It adds to all channels.
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try \
         'resetchannels' to start with an empty list of channels"
    )]
    ChannelAfterAll,
    /// It takes away a password that is not there.
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    /// A hash of another form.
    #[error("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")]
    NoHash,
    /// `>` and nothing behind it. Redis takes that; here nobody means it.
    #[error("The password is empty")]
    EmptyPassword,
    /// A selector begins and does not end.
    #[error("Unmatched parenthesis in acl selector")]
    Unmatched,
}

impl From<Wrong> for RuleError {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Syntax => Self::Syntax,
            Wrong::UnknownCommand => Self::UnknownCommand,
            Wrong::FirstArgumentOfSubcommand => Self::FirstArgumentOfSubcommand,
            Wrong::KeyAfterAll => Self::KeyAfterAll,
            Wrong::ChannelAfterAll => Self::ChannelAfterAll,
        }
    }
}

/// The rules of a line with the bytes where each stands. A selector, `(…)`, is one rule however many words it has.
#[derive(Debug, Clone)]
pub struct Words<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Words<'a> {
    /// The rules of this line.
    pub fn new(line: &'a str) -> Self {
        Self { line, at: 0 }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = (Range<usize>, Result<&'a str, RuleError>);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.line.get(self.at..)?;
        let start = self.at + (rest.len() - rest.trim_start().len());
        let rest = rest.trim_start();
        if rest.is_empty() {
            self.at = self.line.len();
            return None;
        }
        let word = rest.split_whitespace().next().unwrap_or_default();
        let length = if word.starts_with('(') { selector_length(rest) } else { Some(word.len()) };
        let rule = length.and_then(|length| rest.get(..length)).ok_or(RuleError::Unmatched);
        let end = start + rule.map_or(rest.len(), str::len);
        self.at = end;
        Some((start..end, rule))
    }
}

/// Up to the first word that ends in a parenthesis.
fn selector_length(text: &str) -> Option<usize> {
    let ends = text.char_indices().filter(|(_, letter)| *letter == ')').map(|(at, _)| at + 1);
    ends.into_iter()
        .find(|end| text.get(*end..).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace)))
}

impl User {
    /// Takes one rule.
    ///
    /// # Errors
    /// Why it cannot be taken; the user is as it was then.
    pub fn apply(&mut self, rule: &str) -> Result<(), RuleError> {
        match rule.to_ascii_lowercase().as_str() {
            "on" => self.is_on = true,
            "off" => self.is_on = false,
            "nopass" => {
                self.no_password = true;
                self.passwords.clear();
            }
            "resetpass" => {
                self.no_password = false;
                self.passwords.clear();
            }
            "sanitize-payload" => self.sanitize = Some(Sanitize::Always),
            "skip-sanitize-payload" => self.sanitize = Some(Sanitize::Never),
            "clearselectors" => self.selectors.clear(),
            "reset" => {
                let trusts_scripts = self.trusts_scripts;
                *self = Self::new(std::mem::take(&mut self.name)).trusting_scripts(trusts_scripts);
                self.sanitize = Some(Sanitize::Always);
            }
            _ => return self.apply_other(rule),
        }
        Ok(())
    }

    fn apply_other(&mut self, rule: &str) -> Result<(), RuleError> {
        if let Some(rest) = rule.strip_prefix('(') {
            let rules = rest.strip_suffix(')').ok_or(RuleError::Unmatched)?;
            let mut selector = Selector::default();
            rules.split_whitespace().try_for_each(|rule| selector.apply(rule))?;
            self.selectors.push(selector);
            return Ok(());
        }
        let mut letters = rule.chars();
        match (letters.next(), letters.as_str()) {
            (Some('>'), "") => Err(RuleError::EmptyPassword),
            (Some('>'), password) => {
                self.add_password(Password::of(password.as_bytes()));
                Ok(())
            }
            (Some('#'), hash) => {
                self.add_password(Password::from_hex(hash).ok_or(RuleError::NoHash)?);
                Ok(())
            }
            (Some('<'), password) => self.remove_password(Password::of(password.as_bytes())),
            (Some('!'), hash) => self.remove_password(Password::from_hex(hash).ok_or(RuleError::NoHash)?),
            _ => Ok(self.root.apply(rule)?),
        }
    }

    fn remove_password(&mut self, password: Password) -> Result<(), RuleError> {
        let before = self.passwords.len();
        self.passwords.retain(|known| *known != password);
        if self.passwords.len() == before { Err(RuleError::NoSuchPassword) } else { Ok(()) }
    }
}

/// The bytes of a text that may spell a password or its hash as rules have them, whatever the text is: all up to the next
/// space behind `>` or `<`, and what is long behind `#` or `!`. It errs on the side of too much.
pub fn secrets_in(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut end = 0;
    text.match_indices(['>', '<', '#', '!']).filter_map(move |(at, sign)| {
        let start = at + 1;
        let word = text.get(start..)?.split(char::is_whitespace).next()?;
        let least = if matches!(sign, ">" | "<") { 1 } else { 32 };
        if at < end || word.len() < least {
            return None;
        }
        end = start + word.len();
        Some(start..end)
    })
}
