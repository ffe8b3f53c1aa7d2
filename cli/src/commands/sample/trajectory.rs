//! How pictures come about: the network's estimate of the clean picture after every step, as a strip and as a moving picture.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context as _;
use gif::{Encoder, Frame, Repeat};
use strata_datasets::RgbImage;
use strata_diffusion::sampling::Step;
use strata_nn::weights::write_atomic;

use super::Painter;
use crate::grid;

/// Pictures in a row of the strip.
const COLUMNS: usize = 12;
/// How long a step and the end are shown, in hundredths of a second.
const STEP_TIME: u16 = 15;
const END_TIME: u16 = 200;

/// The estimates of the first samples, in the order of the steps.
pub struct Trajectory {
    count: usize,
    seen: BTreeMap<usize, Vec<RgbImage>>,
}

impl Trajectory {
    /// Watches the first `count` samples.
    pub fn new(count: usize) -> Self {
        Self { count, seen: BTreeMap::new() }
    }

    /// Keeps the estimates of those that are watched; `index`: where each row of the batch stands among all samples.
    ///
    /// # Errors
    /// If they cannot be decoded.
    pub fn see(&mut self, step: &Step<'_>, index: impl Fn(usize) -> usize, painter: &Painter) -> anyhow::Result<()> {
        for (row, at) in step.rows.clone().enumerate() {
            let at = index(at);
            if at < self.count {
                let picture = painter.pictures(&step.x0.narrow(0, row, 1)?.contiguous()?)?;
                self.seen.entry(at).or_default().extend(picture);
            }
        }
        Ok(())
    }

    /// Writes `trajectory.png`, a row for each sample, and `trajectory.gif`, a frame for each step; both end with the finished pictures.
    ///
    /// # Errors
    /// If nothing was seen, or a file cannot be written.
    pub fn write(mut self, folder: &Path, seeds: &[u64], finished: &[RgbImage]) -> anyhow::Result<()> {
        for (at, pictures) in &mut self.seen {
            pictures.extend(finished.get(*at).cloned());
        }
        let row = |(at, pictures): (&usize, &Vec<RgbImage>)| grid::Row {
            caption: format!("seed {}", seeds[*at]),
            images: chosen(pictures.len()).map(|i| pictures[i].clone()).collect(),
        };
        grid::write_rows(&self.seen.iter().map(row).collect::<Vec<_>>(), &folder.join("trajectory.png"))?;
        let file = folder.join("trajectory.gif");
        let bytes = self.gif().with_context(|| file.display().to_string())?;
        Ok(write_atomic(&file, &bytes)?)
    }

    fn gif(&self) -> anyhow::Result<Vec<u8>> {
        let steps = self.seen.values().map(Vec::len).max().unwrap_or(0);
        // A sample that took fewer steps than the others waits for them.
        let at = |i: usize| self.seen.values().filter_map(|p| p.get(i).or(p.last()).cloned()).collect::<Vec<_>>();
        let columns = grid::square(self.seen.len());
        let frame = |i| strata_autoencoder::pictures::grid(&at(i).iter().collect::<Vec<_>>(), columns);
        let frames = (0..steps).map(frame).collect::<Result<Vec<RgbImage>, _>>()?;
        let (width, height) = frames.first().map_or((0, 0), |f| (f.width, f.height));
        let (width, height) = (u16::try_from(width)?, u16::try_from(height)?);
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height, &[])?;
        encoder.set_repeat(Repeat::Infinite)?;
        for (i, frame) in frames.iter().enumerate() {
            let mut frame = Frame::from_rgb(width, height, &frame.pixels);
            frame.delay = if i + 1 == steps { END_TIME } else { STEP_TIME };
            encoder.write_frame(&frame)?;
        }
        drop(encoder);
        Ok(bytes)
    }
}

/// At most [`COLUMNS`] of `n` steps, evenly, with the first and the last.
fn chosen(n: usize) -> impl Iterator<Item = usize> {
    let columns = n.min(COLUMNS);
    (0..columns).map(move |i| if columns < 2 { 0 } else { i * (n - 1) / (columns - 1) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_has_the_ends_and_not_too_many() {
        assert_eq!(chosen(1).collect::<Vec<_>>(), [0]);
        assert_eq!(chosen(3).collect::<Vec<_>>(), [0, 1, 2]);
        let many: Vec<usize> = chosen(101).collect();
        assert_eq!((many.len(), many[0], many[COLUMNS - 1]), (COLUMNS, 0, 100));
    }

    #[test]
    fn both_files_end_with_the_finished_picture() {
        let dir = tempfile::tempdir().unwrap();
        let plain = |v: u8| RgbImage { width: 64, height: 64, pixels: vec![v; 64 * 64 * 3] };
        let mut trajectory = Trajectory::new(2);
        trajectory.seen.insert(0, vec![plain(10), plain(20)]);
        trajectory.seen.insert(1, vec![plain(30)]);
        trajectory.write(dir.path(), &[5, 6], &[plain(200), plain(210)]).unwrap();
        let strip = grid::read_png(&dir.path().join("trajectory.png")).unwrap();
        let last = |y: usize| strip.pixels[(y * strip.width + strip.width - 10) * 3];
        assert_eq!(last(10), 200);
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let file = std::fs::File::open(dir.path().join("trajectory.gif")).unwrap();
        let mut decoder = options.read_info(std::io::BufReader::new(file)).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            let centre = (usize::from(frame.height / 2) * usize::from(frame.width) + 30) * 4;
            frames.push((frame.buffer[centre], frame.delay));
        }
        assert_eq!(frames, [(10, STEP_TIME), (20, STEP_TIME), (200, END_TIME)]);
    }
}
