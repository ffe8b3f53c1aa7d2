//! How much memory a file may claim while it is read, so that a few hostile bytes cannot ask for gigabytes.

/// Memory that may be claimed for one file: four times its size and two mebibytes.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    left: usize,
}

/// What every file may claim, however short.
const FLOOR: usize = 2 << 20;

impl Budget {
    pub(crate) fn of(file_bytes: usize) -> Self {
        let limit = file_bytes.saturating_mul(4).saturating_add(FLOOR);
        Self { limit, left: limit }
    }

    /// Counts `bytes` as claimed; errors when the file has claimed too much.
    pub(crate) fn claim(&mut self, bytes: usize) -> Result<(), String> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(format!("asks for more than {} bytes of memory, four times its size: refused", self.limit)),
        }
    }

    /// What the file may claim in all.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether a single buffer of `bytes` may be made; it is not counted, because it is given back before the next.
    pub(crate) fn allows(&self, bytes: usize) -> bool {
        bytes <= self.limit
    }
}
