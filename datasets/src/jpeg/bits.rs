//! Entropy-coded bits of a JPEG scan, and Huffman tables to read them with.

/// Codes of up to this many bits are found in one step.
const QUICK: u32 = 9;

/// A Huffman table (T.81, annex C).
#[derive(Clone)]
pub(super) struct Huffman {
    /// For each prefix of `QUICK` bits: length (0: longer) and symbol.
    quick: Vec<(u8, u8)>,
    /// The same for coefficients of a sequential scan: bits of code and value, and how many coefficients they stand for.
    steps: Box<[(u8, u8); 1 << QUICK]>,
    /// For each length: the first code beyond that length, aligned to 16 bits.
    limit: [u32; 17],
    /// For each length: index of its first symbol minus its first code.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// From the number of codes per length 1 to 16 and the symbols in order of their codes.
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Result<Self, String> {
        let (quick, steps) = (vec![(0, 0); 1 << QUICK], Box::new([(0, 0); 1 << QUICK]));
        let mut table = Self { quick, steps, limit: [0; 17], offset: [0; 17], symbols: symbols.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            let n = u32::from(counts[length as usize - 1]);
            table.offset[length as usize] = index as i32 - code as i32;
            if code + n > 1 << length {
                return Err("JPEG has a Huffman table with too many codes".into());
            }
            for _ in 0..n {
                table.remember(code, length, symbols[index]);
                code += 1;
                index += 1;
            }
            table.limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Ok(table)
    }

    fn remember(&mut self, code: u32, length: u32, symbol: u8) {
        if length <= QUICK {
            let start = (code << (QUICK - length)) as usize;
            let codes = start..start + (1 << (QUICK - length));
            self.quick[codes.clone()].fill((length as u8, symbol));
            self.steps[codes].fill(step(length as u8, symbol));
        }
    }

    /// Length and symbol of the code that the 16 bits of `window` begin with.
    fn find(&self, window: u32) -> Option<(u32, u8)> {
        let (length, symbol) = self.quick[(window >> (16 - QUICK)) as usize];
        if length > 0 {
            return Some((u32::from(length), symbol));
        }
        let length = (QUICK as usize + 1..=16).find(|&l| window < self.limit[l])?;
        let index = (window >> (16 - length)) as i32 + self.offset[length];
        Some((length as u32, *self.symbols.get(usize::try_from(index).ok()?)?))
    }
}

/// What a code of `length` bits means among the coefficients of a sequential scan (T.81, F.1.2.2): the bits that it and its
/// value take, and the coefficients that it stands for; the end of the block stands for all.
fn step(length: u8, symbol: u8) -> (u8, u8) {
    match (symbol >> 4, symbol & 15) {
        (15, 0) => (length, 16),
        (_, 0) => (length, 64),
        (run, size) => (length + size, run + 1),
    }
}

/// A reader of bits that stops at a marker.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    position: usize,
    buffer: u64,
    left: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0, buffer: 0, left: 0 }
    }

    /// Takes in bytes while there is room and no marker.
    fn fill(&mut self) {
        if let Some(next) = self.data.get(self.position..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_be_bytes(*next);
            if !has_byte_ff(word) {
                let bytes = (63 - self.left) / 8;
                self.buffer = self.buffer << (8 * bytes) | word >> 1 >> (63 - 8 * bytes);
                self.position += bytes as usize;
                self.left += 8 * bytes;
                return;
            }
        }
        while self.left <= 48 {
            let Some(&byte) = self.data.get(self.position) else { return };
            if byte == 0xFF {
                if self.data.get(self.position + 1) != Some(&0) {
                    return;
                }
                self.position += 1;
            }
            self.position += 1;
            self.buffer = self.buffer << 8 | u64::from(byte);
            self.left += 8;
        }
    }

    pub(super) fn symbol(&mut self, table: &Huffman) -> Result<u8, String> {
        let (length, symbol) = table.find(self.window()).ok_or("a code that no Huffman table has")?;
        self.take(length)?;
        Ok(symbol)
    }

    /// Passes the coefficients 1 to 63 of a block of a sequential scan.
    pub(super) fn coefficients(&mut self, table: &Huffman) -> Result<(), String> {
        let mut k = 1;
        while k < 64 {
            let window = self.window();
            let (mut bits, mut count) = table.steps[(window >> (16 - QUICK)) as usize & ((1 << QUICK) - 1)];
            if bits == 0 {
                let (length, symbol) = table.find(window).ok_or("a code that no Huffman table has")?;
                (bits, count) = step(length as u8, symbol);
            }
            // A code and its value are 32 bits at most, which `window` made sure of, but at the end of the data.
            self.take(u32::from(bits))?;
            k += u32::from(count);
        }
        Ok(())
    }

    /// The next 16 bits; zeros after the last.
    #[inline]
    fn window(&mut self) -> u32 {
        if self.left < 32 {
            self.fill();
        }
        let window = if self.left >= 16 { self.buffer >> (self.left - 16) } else { self.buffer << (16 - self.left) };
        window as u32 & 0xFFFF
    }

    pub(super) fn skip(&mut self, n: u32) -> Result<(), String> {
        if self.left < n {
            self.fill();
        }
        self.take(n)
    }

    /// The next `n` bits, at most 16, as a number.
    pub(super) fn read(&mut self, n: u32) -> Result<u32, String> {
        self.skip(n)?;
        Ok((self.buffer >> self.left) as u32 & ((1 << n) - 1))
    }

    #[inline]
    fn take(&mut self, n: u32) -> Result<(), String> {
        self.left = self.left.checked_sub(n).ok_or("no more data")?;
        Ok(())
    }

    /// Passes a restart marker.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        self.position = self.end();
        (self.buffer, self.left) = (0, 0);
        match self.data.get(self.position + 1) {
            Some(0xD0..=0xD7) => {
                self.position += 2;
                Ok(())
            }
            _ => Err("JPEG scan stops early: a restart marker is missing".into()),
        }
    }

    /// Where the entropy-coded data end: at the next marker, or the end of the file. Fill bytes before it are passed.
    pub(super) fn end(&self) -> usize {
        let mut at = self.position;
        while let Some(next) = self.data.get(at..) {
            match next {
                [0xFF, 1..=0xFE, ..] | [] => return at,
                _ => at += 1,
            }
        }
        at
    }
}

/// Whether one of the eight bytes is 0xFF.
fn has_byte_ff(word: u64) -> bool {
    let inverse = !word;
    inverse.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 != 0
}
