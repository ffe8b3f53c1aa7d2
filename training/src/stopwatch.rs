//! Seconds per step, and how many of them the network takes: the medians of the last steps, so that a checkpoint or a hiccup does not count.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How many steps the median looks back at.
const WINDOW: usize = 101;

/// Measures the steps of a loop. Time between `pause` and the next `step` is not counted.
#[derive(Debug)]
pub struct Stopwatch {
    started: Instant,
    last: Option<Instant>,
    recent: VecDeque<Duration>,
    network: VecDeque<Duration>,
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Stopwatch {
    /// Starts now.
    pub fn new() -> Self {
        let now = Instant::now();
        Self { started: now, last: Some(now), recent: VecDeque::new(), network: VecDeque::new() }
    }

    /// A step ends now (or, after [`Self::pause`], the next one begins).
    pub fn step(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            remember(&mut self.recent, now - last);
        }
    }

    /// The network took so much of the present step.
    pub fn network(&mut self, taken: Duration) {
        remember(&mut self.network, taken);
    }

    /// Something that is no step begins: saving, sampling. The next [`Self::step`] only starts the clock again.
    pub fn pause(&mut self) {
        self.last = None;
    }

    /// Median seconds of the last steps (at most 101); 0 before the first.
    pub fn seconds_per_step(&self) -> f64 {
        median(&self.recent)
    }

    /// What share of a step passes outside the network, by the medians; 0 before the first step.
    pub fn share_outside(&self) -> f64 {
        let step = self.seconds_per_step();
        if step > 0.0 { 1.0 - median(&self.network) / step } else { 0.0 }
    }

    /// Seconds since the start, pauses included.
    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

fn remember(durations: &mut VecDeque<Duration>, one: Duration) {
    if durations.len() == WINDOW {
        durations.pop_front();
    }
    durations.push_back(one);
}

fn median(durations: &VecDeque<Duration>) -> f64 {
    let mut sorted: Vec<Duration> = durations.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or(0.0, Duration::as_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_one_slow_step_and_pauses() {
        let mut watch = Stopwatch::new();
        assert_eq!(watch.seconds_per_step(), 0.0);
        watch.recent.extend([1, 2, 900, 2, 1].map(Duration::from_millis));
        assert_eq!(watch.seconds_per_step(), 0.002);
        watch.network.extend([1, 1, 2].map(Duration::from_millis));
        assert_eq!(watch.share_outside(), 0.5);
        watch.pause();
        watch.step();
        assert_eq!(watch.recent.len(), 5);
        watch.step();
        assert_eq!(watch.recent.len(), 6);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut watch = Stopwatch::new();
        (0..3 * WINDOW).for_each(|_| watch.step());
        assert_eq!(watch.recent.len(), WINDOW);
    }
}
