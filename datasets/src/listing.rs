//! Columns of a listing, packed: ten million entries fit into memory.

/// Strings end to end in one buffer: 8 bytes an entry beside the text.
#[derive(Default)]
pub(crate) struct Texts {
    text: String,
    ends: Vec<u64>,
}

impl Texts {
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len() as u64);
    }

    pub(crate) fn get(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.text[start..self.ends[i] as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
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
        let labels: Labels = [Some(0), None, Some(9)].into_iter().collect();
        assert_eq!((labels.get(0), labels.get(1), labels.get(2), labels.get(3)), (Some(0), None, Some(9), None));
    }
}
