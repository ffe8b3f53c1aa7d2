//! Marker segments of a JPEG: tables, frame and scan headers (T.81, annex B).

use super::bits::Huffman;

const CUT: &str = "JPEG is cut inside its headers";

/// The marker segments of a file, one after the other.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    position: usize,
    /// The end marker has been reached.
    pub(super) ended: bool,
}

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, String> {
        if !bytes.starts_with(&[0xFF, 0xD8]) {
            return Err("not a JPEG".into());
        }
        Ok(Self { bytes, position: 2, ended: false })
    }

    /// The next segment: marker and body. None at the end of the picture or of the file.
    pub(super) fn next(&mut self) -> Result<Option<(u8, &'a [u8])>, String> {
        loop {
            // Bytes that belong to no segment are passed, as every decoder does.
            let rest = self.rest();
            let Some(at) = rest.windows(2).position(|w| w[0] == 0xFF && w[1] != 0xFF && w[1] != 0) else { return Ok(None) };
            let marker = rest[at + 1];
            self.position += at + 2;
            match marker {
                0xD9 => {
                    self.ended = true;
                    return Ok(None);
                }
                0x01 | 0xD0..=0xD8 => {}
                _ => return self.body().map(|body| Some((marker, body))),
            }
        }
    }

    fn body(&mut self) -> Result<&'a [u8], String> {
        let rest = self.rest();
        let length = match rest {
            [a, b, ..] => usize::from(u16::from_be_bytes([*a, *b])),
            _ => return Err(CUT.into()),
        };
        let body = rest.get(2..length).ok_or(CUT)?;
        self.position += length;
        Ok(body)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }

    pub(super) fn skip(&mut self, n: usize) {
        self.position += n;
    }
}

/// One colour component of a frame.
pub(super) struct Component {
    id: u8,
    pub(super) h: usize,
    pub(super) v: usize,
}

impl Component {
    /// Blocks across, of a scan of this component alone.
    pub(super) fn blocks_wide(&self, frame: &Frame) -> usize {
        (frame.width * self.h).div_ceil(frame.h_max * 8)
    }

    fn blocks_high(&self, frame: &Frame) -> usize {
        (frame.height * self.v).div_ceil(frame.v_max * 8)
    }

    /// Blocks across, filled up to whole units.
    pub(super) fn stride(&self, frame: &Frame) -> usize {
        frame.units_wide() * self.h
    }

    /// All blocks, filled up to whole units.
    pub(super) fn padded_blocks(&self, frame: &Frame) -> usize {
        self.stride(frame) * frame.units_high() * self.v
    }
}

/// A frame header.
pub(super) struct Frame {
    pub(super) progressive: bool,
    width: usize,
    height: usize,
    h_max: usize,
    v_max: usize,
    pub(super) components: Vec<Component>,
}

impl Frame {
    pub(super) fn read(body: &[u8], progressive: bool) -> Result<Self, String> {
        let &[_, h1, h0, w1, w0, n, ref rest @ ..] = body else { return Err(CUT.into()) };
        let components: Vec<Component> = rest
            .chunks_exact(3)
            .take(usize::from(n))
            .map(|c| Component { id: c[0], h: usize::from(c[1] >> 4), v: usize::from(c[1] & 15) })
            .collect();
        let (width, height) = (usize::from(u16::from_be_bytes([w1, w0])), usize::from(u16::from_be_bytes([h1, h0])));
        let sane = |c: &Component| (1..=4).contains(&c.h) && (1..=4).contains(&c.v);
        if components.len() != usize::from(n) || components.is_empty() || !components.iter().all(sane) {
            return Err("JPEG has a damaged frame header".into());
        }
        if width == 0 || height == 0 {
            return Err(format!("the header says {width}x{height} pixels"));
        }
        let h_max = components.iter().map(|c| c.h).max().unwrap_or(1);
        let v_max = components.iter().map(|c| c.v).max().unwrap_or(1);
        Ok(Self { progressive, width, height, h_max, v_max, components })
    }

    /// Units across, of a scan of several components.
    pub(super) fn units_wide(&self) -> usize {
        self.width.div_ceil(self.h_max * 8)
    }

    fn units_high(&self) -> usize {
        self.height.div_ceil(self.v_max * 8)
    }
}

/// A scan header.
pub(super) struct Scan {
    /// Index of the component in the frame, DC table, AC table.
    pub(super) components: Vec<(usize, usize, usize)>,
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) refines: bool,
}

impl Scan {
    pub(super) fn read(body: &[u8], frame: &Frame) -> Result<Self, String> {
        let (&n, rest) = body.split_first().ok_or(CUT)?;
        let (list, tail) = rest.split_at_checked(2 * usize::from(n)).ok_or(CUT)?;
        let &[first, last, approximation, ..] = tail else { return Err(CUT.into()) };
        let mut components = Vec::new();
        for c in list.chunks_exact(2) {
            let index =
                frame.components.iter().position(|f| f.id == c[0]).ok_or("JPEG scan of a component that the frame lacks")?;
            components.push((index, usize::from(c[1] >> 4 & 3), usize::from(c[1] & 3)));
        }
        let (first, last) = (usize::from(first), usize::from(last));
        if components.is_empty() || (frame.progressive && (first > last || last > 63)) {
            return Err("JPEG has a damaged scan header".into());
        }
        Ok(Self { components, first, last, refines: approximation >> 4 != 0 })
    }

    /// How many units (T.81, A.2) the scan holds: blocks if it has one component.
    pub(super) fn units(&self, frame: &Frame) -> usize {
        match self.components.as_slice() {
            [(index, ..)] => {
                let component = &frame.components[*index];
                component.blocks_wide(frame) * component.blocks_high(frame)
            }
            _ => frame.units_wide() * frame.units_high(),
        }
    }
}

/// Reads a segment of Huffman tables into their places.
pub(super) fn read_tables(mut body: &[u8], dc: &mut [Option<Huffman>; 4], ac: &mut [Option<Huffman>; 4]) -> Result<(), String> {
    while let Some((&place, rest)) = body.split_first() {
        let (counts, rest) = rest.split_at_checked(16).ok_or(CUT)?;
        let total = counts.iter().map(|&n| usize::from(n)).sum();
        let (symbols, rest) = rest.split_at_checked(total).ok_or(CUT)?;
        let table = Huffman::new(counts, symbols)?;
        let slot = usize::from(place & 3);
        if place >> 4 == 0 {
            dc[slot] = Some(table);
        } else {
            ac[slot] = Some(table);
        }
        body = rest;
    }
    Ok(())
}

/// The number of units between restart markers; 0 for none.
pub(super) fn restart_interval(body: &[u8]) -> Result<usize, String> {
    match body {
        [a, b, ..] => Ok(usize::from(u16::from_be_bytes([*a, *b]))),
        _ => Err(CUT.into()),
    }
}
