//! |got - want| <= atol + rtol · |want|, element by element.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use serde_json::Value;

use super::{Answer, Case};

/// How near an output must be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tolerance {
    Exact,
    Near { rtol: f64, atol: f64 },
}

impl Tolerance {
    fn of(case: &Case, name: &str) -> Result<Self> {
        let value = case.json["tolerance"].get(name).with_context(|| format!("`{name}`: the case gives no tolerance"))?;
        let number = |key: &str| value.get(key).and_then(Value::as_f64).filter(|v| v.is_finite() && *v >= 0.0);
        match (value.as_str(), value.as_object().map(serde_json::Map::len), number("rtol"), number("atol")) {
            (Some("exact"), ..) => Ok(Self::Exact),
            (None, Some(2), Some(rtol), Some(atol)) => Ok(Self::Near { rtol, atol }),
            _ => bail!("`{name}`: tolerance {value} is neither \"exact\" nor {{rtol, atol}}"),
        }
    }

    fn allowed(self, want: f64) -> f64 {
        match self {
            Self::Exact => 0.0,
            Self::Near { rtol, atol } => atol + rtol * want.abs(),
        }
    }

    /// Of two elements that are not equal. Infinities and NaN must be met exactly.
    fn accepts(self, got: f64, want: f64) -> bool {
        let both_finite = want.is_finite() && got.is_finite();
        let near = both_finite && self != Self::Exact && (got - want).abs() <= self.allowed(want);
        near || (got.is_nan() && want.is_nan())
    }
}

/// Everything in which `answer` is not what `case` expects, one line per tensor; empty when all is right.
pub fn mismatches(case: &Case, answer: &Answer) -> Vec<String> {
    if let Some(why) = &answer.not_run {
        let allowed = case.json.get("requires_file").is_some();
        return if allowed { Vec::new() } else { vec![format!("not run ({why}), but the case requires no file")] };
    }
    let mut problems: Vec<String> = case.expected_names().filter_map(|name| problem(case, answer, name)).collect();
    problems
        .extend(answer.tensors.keys().filter(|name| !case.expects(name)).map(|name| format!("`{name}`: answered but unknown")));
    let is_listing = case.json.get("expect").is_some();
    if is_listing && !answer.checked {
        problems.push("the kind did not compare `expect`".to_string());
    }
    if !is_listing && case.expected_names().next().is_none() {
        problems.push("the case expects nothing: neither `out.*`, `grad.*` nor `expect`".to_string());
    }
    problems.extend(stray_tolerances(case, is_listing));
    problems
}

/// Tolerances for outputs that the file lacks, so that a truncated case is not taken for a passed one.
fn stray_tolerances(case: &Case, is_listing: bool) -> Vec<String> {
    let names = case.json["tolerance"].as_object().into_iter().flat_map(|table| table.keys());
    names
        .filter(|name| !case.expects(name) && (!is_listing || *name != "expect"))
        .map(|name| format!("`{name}`: has a tolerance, but the case has no such tensor"))
        .collect()
}

fn problem(case: &Case, answer: &Answer, name: &str) -> Option<String> {
    let Some(got) = answer.tensors.get(name) else {
        return Some(format!("`{name}`: not answered"));
    };
    match compare(case, name, got) {
        Ok(found) => found,
        Err(error) => Some(format!("{error:#}")),
    }
}

fn compare(case: &Case, name: &str, got: &Tensor) -> Result<Option<String>> {
    let (tolerance, want) = (Tolerance::of(case, name)?, case.tensor(name)?);
    if got.dims() != want.dims() {
        return Ok(Some(format!("`{name}`: expected shape {:?}, got {:?}", want.dims(), got.dims())));
    }
    if let Some(wrong) = wrong_dtype(case, name, got.dtype(), want.dtype()) {
        return Ok(Some(wrong));
    }
    Ok(if want.dtype().is_int() {
        Listing { name, dims: want.dims(), tolerance }.of(&integers(got)?, &integers(&want)?, |v| v as f64)
    } else {
        Listing { name, dims: want.dims(), tolerance }.of(&floats(got)?, &floats(&want)?, |v| v)
    })
}

/// Describes how the elements of one tensor differ.
struct Listing<'a> {
    name: &'a str,
    dims: &'a [usize],
    tolerance: Tolerance,
}

impl Listing<'_> {
    /// Nothing when all elements agree; else their number, the first and the one that is furthest off.
    fn of<T: Copy + PartialEq + std::fmt::Debug>(&self, got: &[T], want: &[T], float: impl Fn(T) -> f64) -> Option<String> {
        let agree = |i: &usize| got[*i] == want[*i] || self.tolerance.accepts(float(got[*i]), float(want[*i]));
        let wrong: Vec<usize> = (0..want.len()).filter(|i| !agree(i)).collect();
        let distance = |i: usize| {
            let d = (float(got[i]) - float(want[i])).abs();
            if d.is_nan() { f64::INFINITY } else { d }
        };
        let (&first, &furthest) = (wrong.first()?, wrong.iter().max_by(|a, b| distance(**a).total_cmp(&distance(**b)))?);
        let element = |i: usize| {
            let allowed = self.tolerance.allowed(float(want[i]));
            format!("{:?}: got {:?}, want {:?}, off by {:e}, allowed {allowed:e}", self.index(i), got[i], want[i], distance(i))
        };
        let mut text = format!("`{}`: {} of {} elements differ; first {}", self.name, wrong.len(), want.len(), element(first));
        if furthest != first {
            text.push_str(&format!("; largest {}", element(furthest)));
        }
        Some(text)
    }

    fn index(&self, flat: usize) -> Vec<usize> {
        let mut rest = flat;
        let mut index: Vec<usize> = Vec::with_capacity(self.dims.len());
        for &size in self.dims.iter().rev() {
            index.push(rest % size);
            rest /= size;
        }
        index.reverse();
        index
    }
}

fn wrong_dtype(case: &Case, name: &str, got: DType, want: DType) -> Option<String> {
    let in_double = case.dtype == DType::F64 && want == DType::F64;
    let wrong = got.is_int() != want.is_int() || (in_double && got != DType::F64);
    wrong.then(|| format!("`{name}`: expected {}, got {}", want.as_str(), got.as_str()))
}

fn integers(t: &Tensor) -> Result<Vec<i64>> {
    Ok(t.flatten_all()?.to_dtype(DType::I64)?.to_vec1()?)
}

fn floats(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
}
