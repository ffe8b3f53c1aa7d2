//! Progress of downloads: a bar for each file and one for all on a terminal, plain lines otherwise.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use strata_hub::Progress;
use strata_training::Interrupt;

use crate::context::Context;

/// Between two lines about the same files.
const BETWEEN_LINES: Duration = Duration::from_secs(5);
const TEMPLATE: &str = "{prefix:40} {bar:25} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} ETA {eta}";

/// Who shows downloads, as the context's progress is shown.
pub struct Downloads<'a> {
    interrupt: &'a Interrupt,
    kind: Kind,
    state: Mutex<State>,
}

enum Kind {
    Quiet,
    Bars(MultiProgress),
    Lines,
}

#[derive(Default)]
struct State {
    files: Vec<One>,
    total: Option<ProgressBar>,
    began: Option<Instant>,
    /// When there was the last line about all files.
    printed: Option<Instant>,
}

struct One {
    name: String,
    size: u64,
    here: u64,
    /// What was here when the download began.
    before: Option<u64>,
    bar: Option<ProgressBar>,
}

impl<'a> Downloads<'a> {
    pub fn new(context: &'a Context) -> Self {
        let kind = match (context.quiet, std::io::IsTerminal::is_terminal(&std::io::stderr())) {
            (true, _) => Kind::Quiet,
            (false, true) => Kind::Bars(MultiProgress::new()),
            (false, false) => Kind::Lines,
        };
        Self { interrupt: &context.interrupt, kind, state: Mutex::default() }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        let mut state = self.state();
        state.files.iter().filter_map(|file| file.bar.as_ref()).chain(&state.total).for_each(ProgressBar::finish_and_clear);
        state.files.clear();
        state.total = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Downloads<'_> {
    fn begin(&self, files: &[(String, u64)]) {
        let mut state = self.state();
        let one = |(name, size): &(String, u64)| One { name: name.clone(), size: *size, here: 0, before: None, bar: None };
        state.files = files.iter().map(one).collect();
        state.began = Some(Instant::now());
        let sum: u64 = files.iter().map(|(_, size)| size).sum();
        if let (Kind::Bars(bars), true) = (&self.kind, files.len() > 1) {
            state.total = Some(bar(bars, &format!("{} files", files.len()), sum));
        }
    }

    fn advance(&self, file: usize, bytes: u64) {
        let mut state = self.state();
        let Some(one) = state.files.get_mut(file) else { return };
        one.here = bytes;
        one.before.get_or_insert(bytes);
        match &self.kind {
            Kind::Quiet => {}
            Kind::Bars(bars) => {
                // Those that are here already pass by without a bar.
                if one.bar.is_none() && bytes < one.size {
                    one.bar = Some(bar(bars, &one.name, one.size));
                }
                one.bar.iter().for_each(|bar| bar.set_position(bytes));
                let sum = state.files.iter().map(|one| one.here).sum();
                state.total.iter().for_each(|bar| bar.set_position(sum));
            }
            Kind::Lines => {
                let printed = state.printed.or(state.began);
                if printed.is_some_and(|at| at.elapsed() >= BETWEEN_LINES) {
                    state.printed = Some(Instant::now());
                    eprintln!("{}", state.line());
                }
            }
        }
    }

    fn done(&self, file: usize) {
        let mut state = self.state();
        let Some(one) = state.files.get_mut(file) else { return };
        if let Some(bar) = one.bar.take() {
            bar.finish_and_clear();
        }
        let fetched = one.before.is_some_and(|before| before < one.size) || one.size == 0;
        if fetched && !matches!(self.kind, Kind::Quiet) {
            let line = format!("{}: {}", one.name, size(one.size));
            match &self.kind {
                Kind::Bars(bars) => drop(bars.println(line)),
                _ => eprintln!("{line}"),
            }
        }
    }

    fn stop(&self) -> bool {
        self.interrupt.is_set()
    }
}

impl State {
    /// All files in a line.
    fn line(&self) -> String {
        let sum = |of: fn(&One) -> u64| self.files.iter().map(of).sum::<u64>();
        let (here, size_of_all) = (sum(|one| one.here), sum(|one| one.size));
        let new = here - sum(|one| one.before.unwrap_or(0)).min(here);
        let rate = new as f64 / self.began.map_or(1.0, |at| at.elapsed().as_secs_f64()).max(1e-9);
        let left = size_of_all.saturating_sub(here) as f64 / rate.max(1e-9);
        let eta = if left < 1e7 { format!(", ETA {left:.0} s") } else { String::new() };
        format!("downloading: {} of {}, {}/s{eta}", size(here), size(size_of_all), size(rate as u64))
    }
}

fn bar(bars: &MultiProgress, name: &str, size: u64) -> ProgressBar {
    let shown: String = match name.chars().count() {
        n if n > 40 => std::iter::once('…').chain(name.chars().skip(n - 39)).collect(),
        _ => name.to_string(),
    };
    let bar = bars.add(ProgressBar::new(size)).with_prefix(shown);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar
}

/// Bytes for a person.
pub fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}
