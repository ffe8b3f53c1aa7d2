//! `strata data inspect`

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde_json::json;
use strata_datasets::{Dataset, DatasetOptions};

use crate::{Outcome, args, context::Context};

/// Broken items that are named; the rest is counted.
const NAMED: usize = 20;

/// The command.
///
/// # Errors
/// If there is no data set.
pub fn run(args: &args::DataInspect, context: &Context) -> anyhow::Result<Outcome> {
    let data = Dataset::open(&args.data, &DatasetOptions::default())?;
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
pub struct Report {
    sizes: BTreeMap<(usize, usize), usize>,
    bad: Vec<(String, String)>,
    per_class: Vec<usize>,
    captions: usize,
}

/// Reads every item of `data`.
pub fn inspect(data: &Dataset, context: &Context) -> Report {
    let done = std::sync::atomic::AtomicU64::new(0);
    context.progress.start("reading", data.len() as u64, "images");
    let outcomes: Vec<Result<(usize, usize), (String, String)>> = (0..data.len())
        .into_par_iter()
        .map(|i| {
            let key = || data.key(i).unwrap_or_else(|_| format!("item {i}"));
            if context.interrupt.is_set() {
                return Err((key(), "not read".to_string()));
            }
            let image = data.load(i);
            context.progress.advance(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, "");
            image.map(|image| (image.width, image.height)).map_err(|e| (key(), e.to_string()))
        })
        .collect();
    context.progress.finish();
    let mut report =
        Report { sizes: BTreeMap::new(), bad: Vec::new(), per_class: vec![0; data.class_names().len()], captions: 0 };
    for (i, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(size) => *report.sizes.entry(size).or_default() += 1,
            Err(bad) => report.bad.push(bad),
        }
        let Ok(info) = data.info(i) else { continue };
        report.captions += usize::from(info.caption.is_some());
        if let Some(count) = info.label.and_then(|l| report.per_class.get_mut(l as usize)) {
            *count += 1;
        }
    }
    report
}

impl Report {
    fn json(&self, data: &Dataset) -> anyhow::Result<serde_json::Value> {
        let sizes: Vec<_> = self.sizes.iter().map(|((w, h), n)| json!({ "width": w, "height": h, "count": n })).collect();
        let bad: Vec<_> = self.bad.iter().map(|(key, why)| json!({ "key": key, "error": why })).collect();
        let classes: Vec<_> =
            data.class_names().iter().zip(&self.per_class).map(|(name, n)| json!({ "name": name, "count": n })).collect();
        Ok(json!({
            "data": data.spec(), "layout": data.layout().to_string(), "count": data.len(), "fingerprint": data.fingerprint()?,
            "classes": classes, "captions": self.captions, "sizes": sizes, "broken": bad, "summary": data.summary(),
        }))
    }

    fn print(&self, data: &Dataset) {
        println!("{}: {} images, layout {}", data.spec(), data.len(), data.layout());
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
        for (key, why) in self.bad.iter().take(NAMED) {
            println!("  {key}: {why}");
        }
        if self.bad.len() > NAMED {
            println!("  and {} more", self.bad.len() - NAMED);
        }
    }
}
