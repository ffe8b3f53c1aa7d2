//! Columns of a listing, packed: ten million entries fit into memory.

/// Strings end to end in one buffer: 8 bytes an entry beside the text. An entry may be absent.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    text: String,
    /// Where each ends; [`Texts::ABSENT`] is added for one that is not there.
    ends: Vec<u64>,
}

impl Texts {
    const ABSENT: u64 = 1 << 63;

    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len() as u64);
    }

    pub(crate) fn push_optional(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.push(text),
            None => self.ends.push(self.text.len() as u64 | Self::ABSENT),
        }
    }

    /// Entry `i`; empty where it is absent.
    pub(crate) fn get(&self, i: usize) -> &str {
        let end = |i: usize| (self.ends[i] & !Self::ABSENT) as usize;
        let start = if i == 0 { 0 } else { end(i - 1) };
        &self.text[start..end(i)]
    }

    /// Entry `i`; none where it is absent.
    pub(crate) fn optional(&self, i: usize) -> Option<&str> {
        (self.ends[i] & Self::ABSENT == 0).then(|| self.get(i))
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Positions in code-point order of their texts.
    pub(crate) fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_by(|&a, &b| self.get(a as usize).cmp(self.get(b as usize)));
        order
    }

    /// The same texts in code-point order.
    pub(crate) fn sorted(&self) -> Self {
        self.order().iter().map(|&i| self.get(i as usize)).collect()
    }

    /// Where `text` is; these are in code-point order.
    pub(crate) fn find_sorted(&self, text: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).cmp(text) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }
}

/// Positions of texts, found by text: 4 bytes an entry. Of equal ones any may be found.
#[derive(Default)]
pub(crate) struct Index(Vec<u32>);

impl Index {
    pub(crate) fn of(texts: &Texts) -> Self {
        Self(texts.order())
    }

    /// Where `text` is among `texts`, of which this was made.
    pub(crate) fn find(&self, texts: &Texts, text: &str) -> Option<usize> {
        self.0.binary_search_by(|&i| texts.get(i as usize).cmp(text)).ok().map(|at| self.0[at] as usize)
    }
}

impl<S: AsRef<str>> FromIterator<S> for Texts {
    fn from_iter<I: IntoIterator<Item = S>>(items: I) -> Self {
        let mut texts = Self::default();
        for item in items {
            texts.push(item.as_ref());
        }
        texts
    }
}

/// Optional labels, 4 bytes an entry.
#[derive(Default)]
pub(crate) struct Labels(Vec<u32>);

impl Labels {
    const NONE: u32 = u32::MAX;

    pub(crate) fn push(&mut self, label: Option<u32>) {
        self.0.push(label.unwrap_or(Self::NONE));
    }

    pub(crate) fn get(&self, i: usize) -> Option<u32> {
        self.0.get(i).copied().filter(|&l| l != Self::NONE)
    }
}

impl FromIterator<Option<u32>> for Labels {
    fn from_iter<I: IntoIterator<Item = Option<u32>>>(items: I) -> Self {
        let mut labels = Self::default();
        items.into_iter().for_each(|label| labels.push(label));
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_labels_come_back() {
        let texts: Texts = ["a", "", "ünï"].into_iter().collect();
        assert_eq!((0..3).map(|i| texts.get(i)).collect::<Vec<_>>(), ["a", "", "ünï"]);
        let mut optional = Texts::default();
        [None, Some("a"), Some(""), None, Some("b")].into_iter().for_each(|text| optional.push_optional(text));
        let back: Vec<_> = (0..5).map(|i| optional.optional(i)).collect();
        assert_eq!(back, [None, Some("a"), Some(""), None, Some("b")]);
        let names: Texts = ["c", "a", "ab", "b"].into_iter().collect();
        assert_eq!(names.sorted().iter().collect::<Vec<_>>(), ["a", "ab", "b", "c"]);
        assert_eq!((names.sorted().find_sorted("b"), names.sorted().find_sorted("aa")), (Some(2), None));
        let index = Index::of(&names);
        assert_eq!((index.find(&names, "ab"), index.find(&names, "d")), (Some(2), None));
        let labels: Labels = [Some(0), None, Some(9)].into_iter().collect();
        assert_eq!((labels.get(0), labels.get(1), labels.get(2), labels.get(3)), (Some(0), None, Some(9), None));
    }
}
