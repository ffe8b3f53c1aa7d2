//! `strata data inspect`

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde_json::json;
use strata_datasets::Dataset;

use crate::{Outcome, args, context::Context};

/// Broken items that are named; the rest is counted.
const NAMED: usize = 20;

/// The command.
///
/// # Errors
/// If there is no data set.
pub fn run(args: &args::DataInspect, context: &Context) -> anyhow::Result<Outcome> {
    let data = Dataset::open(&args.data, &args.reading.options())?;
    let report = inspect(&data, context);
    if context.interrupt.is_set() {
        return Ok(Outcome::Interrupted);
    }
    if args.json {
        println!("{}", report.json(&data)?);
    } else {
        report.print(&data);
    }
    Ok(Outcome::Done)
}

/// What reading every item found.
#[derive(Default)]
pub struct Report {
    sizes: BTreeMap<(usize, usize), usize>,
    /// Position, key and reason.
    bad: Vec<(usize, String, String)>,
    per_class: Vec<usize>,
    captions: usize,
}

/// Reads every item of `data`.
pub fn inspect(data: &Dataset, context: &Context) -> Report {
    let done = AtomicU64::new(0);
    context.progress.start("reading", data.len() as u64, "images");
    let items = (0..data.len()).into_par_iter().fold(Report::default, |mut report, i| {
        if !context.interrupt.is_set() {
            report.read(data, i);
            context.progress.advance(done.fetch_add(1, Ordering::Relaxed) + 1, "");
        }
        report
    });
    let mut report = items.reduce(Report::default, Report::merge);
    context.progress.finish();
    report.bad.sort_unstable();
    report.per_class.resize(data.class_names().len(), 0);
    report
}

impl Report {
    fn read(&mut self, data: &Dataset, i: usize) {
        match data.load(i) {
            Ok(image) => *self.sizes.entry((image.width, image.height)).or_default() += 1,
            Err(error) => {
                let key = data.key(i).unwrap_or_else(|_| format!("item {i}"));
                self.bad.push((i, key, error.to_string()));
            }
        }
        self.captions += usize::from(data.caption(i).is_ok_and(|caption| caption.is_some()));
        if let Ok(Some(label)) = data.label(i) {
            let label = label as usize;
            if self.per_class.len() <= label && label < data.class_names().len() {
                self.per_class.resize(label + 1, 0);
            }
            if let Some(count) = self.per_class.get_mut(label) {
                *count += 1;
            }
        }
    }

    fn merge(mut self, other: Self) -> Self {
        other.sizes.into_iter().for_each(|(size, n)| *self.sizes.entry(size).or_default() += n);
        self.bad.extend(other.bad);
        self.captions += other.captions;
        self.per_class.resize(self.per_class.len().max(other.per_class.len()), 0);
        self.per_class.iter_mut().zip(other.per_class).for_each(|(n, more)| *n += more);
        self
    }

    fn json(&self, data: &Dataset) -> anyhow::Result<serde_json::Value> {
        let sizes: Vec<_> = self.sizes.iter().map(|((w, h), n)| json!({ "width": w, "height": h, "count": n })).collect();
        let bad: Vec<_> = self.bad.iter().map(|(_, key, why)| json!({ "key": key, "error": why })).collect();
        let classes: Vec<_> =
            data.class_names().iter().zip(&self.per_class).map(|(name, n)| json!({ "name": name, "count": n })).collect();
        Ok(json!({
            "data": data.spec(), "layout": data.layout().to_string(), "count": data.len(), "fingerprint": data.fingerprint()?,
            "classes": classes, "captions": self.captions, "sizes": sizes, "broken": bad, "summary": data.summary(),
        }))
    }

    fn print(&self, data: &Dataset) {
        println!("{}: {} images, layout {}", data.spec(), data.len(), data.layout());
        let attributes = &data.summary().attribute_names;
        if !attributes.is_empty() {
            println!("attributes: {} ({})", attributes.len(), attributes.join(", "));
        }
        if self.captions > 0 {
            println!("captions: {}", self.captions);
        }
        for (split, count) in &data.summary().splits {
            println!("split {split}: {count}");
        }
        for (label, (name, count)) in data.class_names().iter().zip(&self.per_class).enumerate() {
            println!("class {label}: {name}, {count} images");
        }
        let mut sizes: Vec<_> = self.sizes.iter().collect();
        sizes.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        for ((width, height), count) in sizes.iter().take(NAMED) {
            println!("size {width}x{height}: {count} images");
        }
        if sizes.len() > NAMED {
            println!("and {} more sizes", sizes.len() - NAMED);
        }
        println!("broken: {}", self.bad.len());
        for (_, key, why) in self.bad.iter().take(NAMED) {
            println!("  {key}: {why}");
        }
        if self.bad.len() > NAMED {
            println!("  and {} more", self.bad.len() - NAMED);
        }
    }
}
