//! Progress: a bar on a terminal, plain lines otherwise.

mod downloads;

pub use downloads::{Downloads, size};

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use strata_training::Progress;

/// One bar at a time, with rate, time to finish and a message.
#[derive(Default)]
pub struct Bars(Mutex<Option<ProgressBar>>);

impl Progress for Bars {
    fn start(&self, what: &str, total: u64, unit: &str) {
        let template = format!("{{prefix}} {{bar:30}} {{human_pos}}/{{human_len}} {unit} · {{per_sec}} · ETA {{eta}} · {{msg}}");
        let bar = ProgressBar::new(total).with_prefix(what.to_string());
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        *lock(&self.0) = Some(bar);
    }

    fn advance(&self, done: u64, message: &str) {
        if let Some(bar) = lock(&self.0).as_ref() {
            if bar.position() == 0 && done > 0 {
                // A run that goes on begins here: what an earlier call did is not this one's speed.
                bar.set_position(done);
                bar.reset_eta();
            }
            bar.set_position(done);
            if !message.is_empty() {
                bar.set_message(message.to_string());
            }
        }
    }

    fn finish(&self) {
        if let Some(bar) = lock(&self.0).take() {
            bar.abandon();
        }
    }

    fn note(&self, text: &str) {
        match lock(&self.0).as_ref() {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

/// A line at the beginning, every ten seconds, and at the end.
#[derive(Default)]
pub struct Lines(Mutex<Option<Task>>);

struct Task {
    what: String,
    total: u64,
    unit: String,
    began: Instant,
    first: Option<u64>,
    done: u64,
    message: String,
    printed: Instant,
}

const BETWEEN_LINES: Duration = Duration::from_secs(10);

impl Progress for Lines {
    fn start(&self, what: &str, total: u64, unit: &str) {
        eprintln!("{what}: {total} {unit}");
        let now = Instant::now();
        let (what, unit) = (what.to_string(), unit.to_string());
        *lock(&self.0) = Some(Task { what, total, unit, began: now, first: None, done: 0, message: String::new(), printed: now });
    }

    fn advance(&self, done: u64, message: &str) {
        let mut guard = lock(&self.0);
        let Some(task) = guard.as_mut() else { return };
        task.first.get_or_insert(done);
        task.done = done;
        if !message.is_empty() {
            task.message = message.to_string();
        }
        if task.printed.elapsed() >= BETWEEN_LINES {
            task.printed = Instant::now();
            eprintln!("{}", task.line());
        }
    }

    fn finish(&self) {
        if let Some(task) = lock(&self.0).take() {
            eprintln!("{} in {:.1} s", task.line(), task.began.elapsed().as_secs_f64());
        }
    }

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}

impl Task {
    fn line(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        // What an earlier call did is not this one's speed; where all came in one piece, all of it is.
        let before = self.first.filter(|first| *first < self.done).unwrap_or(0);
        let rate = (self.done - before) as f64 / seconds.max(1e-9);
        let left = (self.total.saturating_sub(self.done)) as f64 / rate.max(1e-9);
        let eta = if self.done < self.total && left < 1e7 { format!(", ETA {left:.0} s") } else { String::new() };
        let message = if self.message.is_empty() { String::new() } else { format!(", {}", self.message) };
        format!("{}: {}/{} {}, {rate:.1}/s{eta}{message}", self.what, self.done, self.total, self.unit)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
