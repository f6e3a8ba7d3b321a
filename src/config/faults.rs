//! What is wrong with a configuration file, shown where it is wrong.
//!
//! Every rule adds to one [`Faults`]; the reader sees all of them in one pass, each with its line and a caret, in the
//! look of rustc.
//!
//! # Invariants
//! - Rendering never panics, whatever the spans: they are clamped to the text and its character boundaries.
//! - A fault never quotes a secret: what stands in the file by mistake is masked before anything is rendered, and what is
//!   read from elsewhere is not passed in here.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// How many faults are rendered. A file with more is not a config file; its first faults tell as much.
const SHOWN_MAX: usize = 50;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, in one line.
    pub title: String,
    /// The bytes of the file to blame.
    pub span: Range<usize>,
    /// What is said beside the caret; may be empty.
    pub label: String,
    /// How to mend it.
    pub help: Option<String>,
    /// Another place that belongs to the story, as with duplicates.
    pub related: Option<(Range<usize>, String)>,
}

impl Fault {
    pub(super) fn new(span: &Range<usize>, title: impl Into<String>) -> Self {
        Self { title: title.into(), span: span.clone(), label: String::new(), help: None, related: None }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn related(mut self, span: &Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((span.clone(), label.into()));
        self
    }
}

/// Everything that is wrong with one file. `Display` renders it without colours.
#[derive(Clone, Debug)]
pub struct Faults {
    name: String,
    text: String,
    list: Vec<Fault>,
}

impl Faults {
    /// An empty list for the file of that name and text.
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), list: Vec::new() }
    }

    pub(super) fn push(&mut self, fault: Fault) {
        self.list.push(fault);
    }

    /// Makes these bytes of the file unreadable in everything that is shown.
    pub(super) fn mask(&mut self, span: &Range<usize>) {
        let span = self.clamp(span);
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        for byte in bytes.get_mut(span).into_iter().flatten().filter(|byte| !matches!(byte, b'\n' | b'\r')) {
            *byte = b'*';
        }
        self.text = String::from_utf8(bytes).expect("whole characters became stars");
    }

    /// Each fault, in the order of the file once checking is over.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether the file is free of faults.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether any fault lies in these bytes of the file.
    pub(super) fn any_within(&self, range: &Range<usize>) -> bool {
        self.list.iter().any(|fault| range.start <= fault.span.start && fault.span.start < range.end)
    }

    /// `value` if nothing was wrong, else the faults in the order of the file.
    pub(super) fn or<T>(mut self, value: Option<T>) -> Result<T, Self> {
        if self.list.is_empty() {
            return Ok(value.expect("a part is missing only where a fault was reported"));
        }
        self.list.sort_by(|left, right| (left.span.start, &left.title).cmp(&(right.span.start, &right.title)));
        self.list.dedup();
        Err(self)
    }

    /// The faults as rustc would show them, with terminal colours.
    pub fn render_with_colours(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for fault in self.list.iter().take(SHOWN_MAX) {
            let mut primary = AnnotationKind::Primary.span(self.clamp(&fault.span));
            if !fault.label.is_empty() {
                primary = primary.label(fault.label.as_str());
            }
            let mut snippet = Snippet::source(self.text.as_str()).path(self.name.as_str()).annotation(primary);
            if let Some((span, label)) = &fault.related {
                snippet = snippet.annotation(AnnotationKind::Context.span(self.clamp(span)).label(label.as_str()));
            }
            let mut group = Level::ERROR.primary_title(fault.title.as_str()).element(snippet);
            if let Some(help) = &fault.help {
                group = group.element(Level::HELP.message(help.as_str()));
            }
            groups.push(group);
        }
        // One report each: groups of one report would be drawn as one story.
        let mut reports: Vec<String> = groups.into_iter().map(|group| renderer.render(&[group])).collect();
        if let Some(hidden) = self.list.len().checked_sub(SHOWN_MAX).filter(|hidden| 0 < *hidden) {
            reports.push(format!("… and {hidden} more"));
        }
        reports.join("\n\n")
    }

    /// A span that the renderer can take: within the text, on character boundaries.
    fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.text.floor_char_boundary(span.start.min(self.text.len()));
        let end = self.text.ceil_char_boundary(span.end.min(self.text.len()));
        start..end.max(start)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Faults {}

/// The candidate that was probably meant, for "did you mean": at most one edit in three letters away.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // The distance is quadratic: a key of a megabyte is not a slip of the finger.
    if 64 < word.len() {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (word.len().max(candidate.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
