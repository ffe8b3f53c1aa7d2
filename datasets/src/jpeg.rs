//! JPEG files: pixels, and whether the scans are complete.
//!
//! Decoders made for viewing fill what a damaged scan does not give, and say nothing. [`check`] walks the entropy-coded data
//! (ITU-T T.81, annexes F and G) without computing pixels, and reports a scan that ends before its last block.

mod bits;
mod header;
mod pixels;

pub(crate) use pixels::Jpeg;

use bits::{Bits, Huffman};
use header::{Component, Frame, Scan, Segments};

/// Pictures have about ten scans; a file of very many costs a decoder minutes.
const MAX_SCANS: usize = 100;

/// Checks that every scan of a Huffman-coded JPEG holds all of its blocks. Errors say where it stops.
/// Processes that the decoder refuses anyway (arithmetic, lossless, hierarchical) are not looked at.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    let mut segments = Segments::new(bytes)?;
    let mut walk = Walk::default();
    let mut scans = 0;
    while let Some((marker, body)) = segments.next()? {
        match marker {
            0xC4 => header::read_tables(body, &mut walk.dc, &mut walk.ac)?,
            0xDD => walk.restart = header::restart_interval(body)?,
            0xC0..=0xC2 => walk.start_frame(Frame::read(body, marker == 0xC2)?)?,
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCF => return Ok(()),
            0xDA => {
                scans += 1;
                if scans > MAX_SCANS {
                    return Err(format!("JPEG has more than {MAX_SCANS} scans"));
                }
                let used = walk.scan(body, segments.rest())?;
                segments.skip(used);
                if walk.finished() {
                    return Ok(());
                }
            }
            _ => {}
        }
    }
    // A progressive picture may have any number of scans: only its end marker says that none is missing.
    if walk.started && (segments.ended || !walk.progressive()) && walk.every_component_seen() {
        return Ok(());
    }
    Err("JPEG is cut: its data end before the end of the picture".into())
}

/// Progress through one picture.
#[derive(Default)]
struct Walk {
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart: usize,
    frame: Option<Frame>,
    /// Per component and block, which coefficients are nonzero so far: a refinement reads one bit for each.
    nonzero: Vec<Vec<u64>>,
    seen: Vec<bool>,
    started: bool,
}

impl Walk {
    fn start_frame(&mut self, frame: Frame) -> Result<(), String> {
        if self.frame.is_some() {
            return Err("JPEG has two frames".into());
        }
        self.seen = vec![false; frame.components.len()];
        self.nonzero = vec![Vec::new(); frame.components.len()];
        self.frame = Some(frame);
        Ok(())
    }

    fn progressive(&self) -> bool {
        self.frame.as_ref().is_some_and(|f| f.progressive)
    }

    fn every_component_seen(&self) -> bool {
        self.seen.iter().all(|&s| s)
    }

    /// A sequential picture is complete after one scan of each component, whatever follows.
    fn finished(&self) -> bool {
        self.started && !self.progressive() && self.every_component_seen()
    }

    /// Walks one scan; answers how many bytes of `data` its entropy-coded part takes.
    fn scan(&mut self, header: &[u8], data: &[u8]) -> Result<usize, String> {
        let frame = self.frame.as_ref().ok_or("JPEG scan before its frame")?;
        let scan = Scan::read(header, frame)?;
        self.started = true;
        for &(index, ..) in &scan.components {
            self.seen[index] = true;
            let blocks = frame.components[index].padded_blocks(frame);
            if frame.progressive && self.nonzero[index].is_empty() {
                self.nonzero[index] = vec![0; blocks];
            }
        }
        let mut state = ScanState { bits: Bits::new(data), eob_run: 0 };
        let units = scan.units(frame);
        for unit in 0..units {
            if self.restart > 0 && unit > 0 && unit % self.restart == 0 {
                state.bits.restart()?;
                state.eob_run = 0;
            }
            let done = match scan.components.as_slice() {
                [one] => self.lone_block(&scan, *one, unit, &mut state),
                many => many.iter().try_for_each(|&c| self.interleaved(&scan, c, unit, &mut state)),
            };
            done.map_err(|why| format!("JPEG scan stops early, {unit} of {units} units read: {why}"))?;
        }
        Ok(state.bits.end())
    }

    fn lone_block(&mut self, scan: &Scan, part: (usize, usize, usize), unit: usize, state: &mut ScanState) -> Result<(), String> {
        let frame = self.frame.as_ref().ok_or("no frame")?;
        let component = &frame.components[part.0];
        let (wide, stride) = (component.blocks_wide(frame), component.stride(frame));
        let place = unit / wide * stride + unit % wide;
        self.block(scan, part, place, state)
    }

    fn interleaved(
        &mut self,
        scan: &Scan,
        part: (usize, usize, usize),
        unit: usize,
        state: &mut ScanState,
    ) -> Result<(), String> {
        let frame = self.frame.as_ref().ok_or("no frame")?;
        let Component { h, v, .. } = frame.components[part.0];
        let (across, stride) = (frame.units_wide(), frame.components[part.0].stride(frame));
        let (row, column) = (unit / across * v, unit % across * h);
        for y in 0..v {
            for x in 0..h {
                self.block(scan, part, (row + y) * stride + column + x, state)?;
            }
        }
        Ok(())
    }

    fn block(
        &mut self,
        scan: &Scan,
        (index, dc, ac): (usize, usize, usize),
        place: usize,
        state: &mut ScanState,
    ) -> Result<(), String> {
        let dc_table = self.dc[dc].as_ref();
        let ac_table = self.ac[ac].as_ref();
        if !self.frame.as_ref().is_some_and(|f| f.progressive) {
            state.dc(dc_table.ok_or("no DC table")?)?;
            return state.bits.coefficients(ac_table.ok_or("no AC table")?);
        }
        if scan.first == 0 {
            return if scan.refines { state.bits.skip(1) } else { state.dc(dc_table.ok_or("no DC table")?) };
        }
        let history = self.nonzero[index].get_mut(place).ok_or("block outside the picture")?;
        let table = ac_table.ok_or("no AC table")?;
        if scan.refines { state.ac_refine(table, scan, history) } else { state.ac_first(table, scan, history) }
    }
}

/// Position within one scan.
struct ScanState<'a> {
    bits: Bits<'a>,
    eob_run: u32,
}

impl ScanState<'_> {
    fn dc(&mut self, table: &Huffman) -> Result<(), String> {
        let size = self.bits.symbol(table)?;
        if size > 16 {
            return Err("a DC difference of more than 16 bits".into());
        }
        self.bits.skip(u32::from(size))
    }

    fn ac_first(&mut self, table: &Huffman, scan: &Scan, history: &mut u64) -> Result<(), String> {
        if self.eob_run > 0 {
            self.eob_run -= 1;
            return Ok(());
        }
        let mut k = scan.first;
        while k <= scan.last {
            let symbol = self.bits.symbol(table)?;
            let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
            match (run, size) {
                (15, 0) => k += 16,
                (_, 0) => {
                    self.eob_run = (1 << run) - 1 + self.bits.read(run as u32)?;
                    return Ok(());
                }
                _ => {
                    k += run;
                    *history |= 1 << k.min(63);
                    k += 1;
                    self.bits.skip(size)?;
                }
            }
        }
        Ok(())
    }

    /// One block of a refinement scan (T.81, G.1.2.3): a correction bit for each coefficient already nonzero.
    fn ac_refine(&mut self, table: &Huffman, scan: &Scan, history: &mut u64) -> Result<(), String> {
        let mut k = scan.first;
        while k <= scan.last && self.eob_run == 0 {
            let symbol = self.bits.symbol(table)?;
            let (mut run, size) = (usize::from(symbol >> 4), symbol & 15);
            if size == 0 && run < 15 {
                self.eob_run = (1 << run) + self.bits.read(run as u32)?;
                break;
            }
            if size > 0 {
                self.bits.skip(1)?;
            }
            while k <= scan.last {
                if *history >> k & 1 == 1 {
                    self.bits.skip(1)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if size > 0 && k <= scan.last {
                *history |= 1 << k;
            }
            k += 1;
        }
        if self.eob_run > 0 {
            self.bits.skip(corrections(*history, k, scan.last))?;
            self.eob_run -= 1;
        }
        Ok(())
    }
}

/// How many of the coefficients `from..=last` are nonzero.
fn corrections(history: u64, from: usize, last: usize) -> u32 {
    if from > last { 0 } else { (history >> from << (63 - last + from)).count_ones() }
}
