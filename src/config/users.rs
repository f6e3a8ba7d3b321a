//! The rules of users: the `[[user]]` tables and the ACL file. A part of [`super::check`].
//!
//! # Invariants
//! - What a rule gives as a password is in no fault and in nothing that is written: [`mask`] hides it in the text before
//!   any fault is rendered, and [`RulesText`] is written without it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::check::Check;
use super::faults::{Fault, Faults, nearest};
use super::file::{At, File, UserTable};
use super::secret::Secret;
use crate::acl::{CATEGORIES, DEFAULT, RuleError, User, Users, Words, secrets_in};
use crate::command;

const NAME_BYTES_MAX: usize = 128;

/// Whether users can be changed at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AclAtRunTime {
    /// They are as the configuration has them.
    #[default]
    Off,
    /// `ACL SETUSER` and `ACL DELUSER` change them.
    On,
    /// The same, and the scripts of users that were made so are trusted.
    TrustingScripts,
}

/// The rules of one user as written.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(super) struct RulesText(String);

impl Serialize for RulesText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let words = Words::new(&self.0).map(|(at, _)| self.0.get(at).unwrap_or_default());
        let shown = words.map(|word| match word.get(..1) {
            Some(sign @ (">" | "<" | "#" | "!")) => Cow::Owned(format!("{sign}***")),
            _ => Cow::Borrowed(word),
        });
        serializer.serialize_str(&shown.collect::<Vec<_>>().join(" "))
    }
}

/// Hides what rules give as passwords, wherever in the text they stand: faults show lines of it.
pub(super) fn mask(text: &str, faults: &mut Faults) {
    secrets_in(text).for_each(|secret| faults.mask(&secret));
}

/// Who a client of a listener is before it signs in.
pub(super) fn default_user(users: &Users, password: Option<&Secret>) -> Arc<User> {
    let named = users.get(DEFAULT.as_bytes());
    match password {
        None => named.map_or_else(|| Arc::new(User::unlimited_default()), Arc::clone),
        Some(password) => {
            let user = named.map_or_else(User::unlimited_default, |user| User::clone(user));
            Arc::new(user.with_only_password(password.expose()))
        }
    }
}

impl Check<'_> {
    /// All users of both sources.
    pub(super) fn users(&mut self, file: &File) -> Users {
        let mut users = Users::default();
        let mut seen: HashMap<String, Range<usize>> = HashMap::new();
        for table in &file.user {
            let Some(user) = self.user(table) else { continue };
            let span = table.name.as_ref().map(|name| name.span.clone()).unwrap_or_default();
            if let Some(first) = seen.insert(user.name().to_owned(), span.clone()) {
                self.duplicate("two users have the same name", &span, &first);
            }
            users.insert(user);
        }
        if let Some(path) = &file.aclfile {
            match self.secrets.text(&path.value) {
                Ok(None) => {}
                Ok(Some(text)) => self.acl_file(path, &text, &mut users),
                Err(reason) => self.push(Fault::new(&path.span, "the ACL file cannot be read").label(reason)),
            }
        }
        users
    }

    fn user(&mut self, table: &UserTable) -> Option<User> {
        let name = table.name.as_ref()?;
        if !is_user_name(&name.value) {
            self.push(
                Fault::new(&name.span, "this is no name of a user")
                    .help(format!("up to {NAME_BYTES_MAX} characters without spaces")),
            );
        }
        let mut user = User::new(&name.value).trusting_scripts(table.trust_scripts);
        if let Some(rules) = &table.rules {
            for (at, rule) in Words::new(&rules.value.0) {
                if let Err(error) = rule.and_then(|rule| user.apply(rule)) {
                    let place = Self::place_in(&rules.span, &rules.value.0, &at);
                    let word = rules.value.0.get(at).unwrap_or_default();
                    let fault = Fault::new(&place, format!("a rule of user `{}` cannot be taken", name.value));
                    let fault = fault.label(error.to_string());
                    self.push(match meant(word, error) {
                        Some(meant) => fault.help(format!("did you mean `{meant}`?")),
                        None => fault,
                    });
                }
            }
        }
        match self.secret("password", table.password_file.as_ref(), table.password_env.as_ref()) {
            Some(password) if !password.expose().is_empty() => Some(user.with_password(password.expose())),
            _ => Some(user),
        }
    }

    /// Where a part of a string stands in the file: exactly, unless the string is written with escapes.
    fn place_in(span: &Range<usize>, value: &str, part: &Range<usize>) -> Range<usize> {
        // Two quotes more than the value: no escapes, and not one of the long forms.
        let is_plain = span.len() == value.len() + 2;
        if is_plain { span.start + 1 + part.start..span.start + 1 + part.end } else { span.clone() }
    }

    fn acl_file(&mut self, path: &At<String>, text: &str, users: &mut Users) {
        let shown = Path::new(&path.value).file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Err(reason) = acl_line(line, users) {
                self.push(
                    Fault::new(&path.span, "the ACL file is wrong")
                        .label(format!("{shown}, line {}: {reason}", number + 1)),
                );
            }
        }
    }
}

/// `user name rule …`
fn acl_line(line: &str, users: &mut Users) -> Result<(), String> {
    let rest = line.strip_prefix("user").filter(|rest| rest.starts_with(char::is_whitespace));
    let rest = rest.ok_or("a line begins with `user`")?.trim_start();
    let (name, rules) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    if !is_user_name(name) {
        return Err("there is no name behind `user`".to_owned());
    }
    if users.get(name.as_bytes()).is_some() {
        return Err(format!("user `{name}` is there twice"));
    }
    let mut user = User::new(name);
    for (at, rule) in Words::new(rules) {
        rule.and_then(|rule| user.apply(rule)).map_err(|error| {
            let word = rules.get(at).unwrap_or_default();
            // Anything else may be a password.
            let is_harmless = word.starts_with(['+', '-', '~', '%', '&']);
            if is_harmless { format!("`{word}`: {error}") } else { error.to_string() }
        })?;
    }
    users.insert(user);
    Ok(())
}

fn is_user_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control())
}

/// The rule that was probably meant.
fn meant(rule: &str, error: RuleError) -> Option<String> {
    if error != RuleError::UnknownCommand {
        return None;
    }
    let (sign, name) = rule.split_at_checked(1)?;
    match name.strip_prefix('@') {
        Some(category) => nearest(category, CATEGORIES).map(|meant| format!("{sign}@{meant}")),
        None => nearest(name, command::all().iter().map(|row| row.name)).map(|meant| format!("{sign}{meant}")),
    }
}
