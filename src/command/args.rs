//! A request as the table sees it: its arguments where they lie in the frame. Copies nothing.

/// The arguments of one request; the verb is argument 0.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    frame: &'a [u8],
    bounds: &'a [(u32, u32)],
}

impl<'a> Args<'a> {
    /// `bounds` are half-open byte ranges (start, end) in `frame`, one an argument. A range that does not lie in the
    /// frame reads as a missing argument.
    pub fn new(frame: &'a [u8], bounds: &'a [(u32, u32)]) -> Self {
        Self { frame, bounds }
    }

    /// How many arguments, the verb among them.
    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    /// Whether there is not even a verb.
    pub fn is_empty(&self) -> bool {
        self.bounds.is_empty()
    }

    /// The bytes of one argument.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let &(start, end) = self.bounds.get(index)?;
        self.frame.get(start as usize..end as usize)
    }

    /// Where the arguments lie.
    pub fn bounds(&self) -> &'a [(u32, u32)] {
        self.bounds
    }

    /// Every argument in order, the verb first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + use<'a> {
        let frame = self.frame;
        self.bounds.iter().map(move |&(start, end)| frame.get(start as usize..end as usize).unwrap_or_default())
    }

    /// The request that begins at an argument of this one, as in `COMMAND GETKEYS GET key`.
    #[must_use]
    pub fn skip(&self, count: usize) -> Self {
        Self { frame: self.frame, bounds: self.bounds.get(count..).unwrap_or_default() }
    }

    /// Whether the argument is this word in any case.
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.get(index).is_some_and(|bytes| bytes.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// Arguments that own their bytes, for tests and examples.
#[cfg(test)]
pub(crate) struct OwnedArgs {
    frame: Vec<u8>,
    bounds: Vec<(u32, u32)>,
}

#[cfg(test)]
impl OwnedArgs {
    /// The words as a request would hold them.
    pub(crate) fn new<T: AsRef<[u8]>>(words: impl IntoIterator<Item = T>) -> Self {
        let (mut frame, mut bounds) = (Vec::new(), Vec::new());
        for word in words {
            let start = u32::try_from(frame.len()).unwrap();
            frame.extend_from_slice(word.as_ref());
            bounds.push((start, u32::try_from(frame.len()).unwrap()));
        }
        Self { frame, bounds }
    }

    /// The view of them.
    pub(crate) fn view(&self) -> Args<'_> {
        Args::new(&self.frame, &self.bounds)
    }
}
