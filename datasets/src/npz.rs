//! NumPy's arrays in a zip archive (`npz`), stored or deflated, and what pickles keep of them.

use std::path::Path;

use crate::readers::pickle::Pickle;
use crate::readers::zip::Zip;
use crate::{Error, Result};

/// What was read, or what is wrong, in words.
type Told<T> = std::result::Result<T, String>;

/// An open npz file.
pub struct Npz(Zip);

/// The type and shape of an array, from its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// As NumPy writes it: `<f8`, `|u1`, ...
    pub dtype: String,
    pub shape: Vec<usize>,
    pub fortran_order: bool,
    /// Bytes of the file before the first element.
    pub bytes: usize,
}

/// Numbers of an array, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// Sizes of the dimensions.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f64>,
}

impl Npz {
    /// Opens the file and lists its arrays. Errors if it is no zip archive or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self(Zip::open(path)?))
    }

    /// Names of the arrays, in the order of the file.
    pub fn names(&self) -> Vec<&str> {
        (0..self.0.len()).filter_map(|i| self.0.name(i).strip_suffix(".npy")).collect()
    }

    /// Where the array stands among the members.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        (0..self.0.len()).find(|&i| self.0.name(i).strip_suffix(".npy") == Some(name))
    }

    pub(crate) fn archive(&self) -> &Zip {
        &self.0
    }

    /// The numbers of array `name`, of any real type; none if there is no such array.
    /// Errors if it is damaged or holds something else than numbers.
    pub fn numbers(&self, name: &str) -> Result<Option<Numbers>> {
        let Some(i) = self.find(name) else { return Ok(None) };
        let bytes = self.0.read(i)?;
        let bad = |why: String| Error::file(self.0.path(), format!("array `{name}`: {why}"));
        let header = Header::parse(&bytes).map_err(bad)?;
        header.numbers(&bytes[header.bytes..]).map(Some).map_err(bad)
    }
}

impl Header {
    /// Of the first bytes of an npy file. Errors if they are none.
    pub(crate) fn parse(bytes: &[u8]) -> Told<Self> {
        const CUT: &str = "its header is damaged";
        if !bytes.starts_with(b"\x93NUMPY") {
            return Err("not an array of NumPy".into());
        }
        let at = |i: usize| bytes.get(i).copied().map(usize::from).ok_or(CUT);
        let (start, length): (usize, usize) = match at(6)? {
            1 => (10, at(8)? | at(9)? << 8),
            2 | 3 => (12, at(8)? | at(9)? << 8 | at(10)? << 16 | at(11)? << 24),
            version => return Err(format!("version {version} of the format: expected 1 to 3")),
        };
        let text = start.checked_add(length).and_then(|end| bytes.get(start..end)).ok_or(CUT)?;
        let text = String::from_utf8_lossy(text);
        let after = |key: &str| text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start()).ok_or(CUT);
        let dtype = after("descr")?.strip_prefix('\'').and_then(|t| t.split_once('\'')).ok_or("not an array of numbers")?.0;
        let dims = after("shape")?.strip_prefix('(').and_then(|t| t.split_once(')')).ok_or(CUT)?.0;
        let dims = dims.split(',').map(str::trim).filter(|t| !t.is_empty());
        let shape = dims.map(|t| t.parse().map_err(|_| CUT)).collect::<std::result::Result<Vec<usize>, _>>()?;
        let fortran_order = after("fortran_order")?.starts_with("True");
        Ok(Self { dtype: dtype.to_string(), shape, fortran_order, bytes: start + length })
    }

    /// Number of elements. Errors if it is absurd.
    pub(crate) fn elements(&self) -> Told<usize> {
        let product = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        product.ok_or_else(|| format!("a shape of {:?}: refused", self.shape))
    }

    fn numbers(&self, content: &[u8]) -> Told<Numbers> {
        let values = decode(&self.dtype, content)?;
        let expected = self.elements()?;
        if values.len() != expected {
            return Err(format!("expected {expected} numbers for the shape {:?}, got {}", self.shape, values.len()));
        }
        let values = match (self.fortran_order, self.shape.as_slice()) {
            (false, _) | (true, [] | [_]) => values,
            (true, &[rows, columns]) => (0..rows * columns).map(|k| values[k % columns * rows + k / columns]).collect(),
            _ => return Err("column order of more than two dimensions".into()),
        };
        Ok(Numbers { shape: self.shape.clone(), values })
    }
}

/// Little-endian numbers of the type that NumPy calls `dtype`.
fn decode(dtype: &str, content: &[u8]) -> Told<Vec<f64>> {
    fn all<const N: usize>(content: &[u8], f: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        content.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()
    }
    Ok(match dtype {
        "<f8" => all(content, f64::from_le_bytes),
        "<f4" => all(content, |b| f64::from(f32::from_le_bytes(b))),
        "<f2" => all(content, |b| f64::from(half::f16::from_le_bytes(b))),
        "<i8" => all(content, |b| i64::from_le_bytes(b) as f64),
        "<i4" => all(content, |b| f64::from(i32::from_le_bytes(b))),
        "|u1" => all(content, |[b]| f64::from(b)),
        "|i1" => all(content, |[b]| f64::from(b as i8)),
        other => return Err(format!("numbers of type `{other}`: expected f8, f4, f2, i8, i4 or u1, little-endian")),
    })
}

/// Float64 arrays of a pickled table, by the names on the way to each: `["fid", "mu"]`; the pickle may lie in an archive of
/// PyTorch. Nothing in the file is executed.
/// None for a way that leads nowhere. Errors if the file is no pickle of data or a number's type is another.
pub fn pickled_numbers(path: &Path, ways: &[&[&str]]) -> Result<Vec<Option<Numbers>>> {
    let bad = |why: String| Error::file(path, why);
    let mut bytes = crate::readers::files::read(path)?;
    if bytes.starts_with(b"PK") {
        let archive = Zip::open(path)?;
        let member = (0..archive.len()).find(|&i| archive.name(i).ends_with("data.pkl"));
        bytes = archive.read(member.ok_or_else(|| bad("an archive without `data.pkl`".into()))?)?;
    }
    let pickle = Pickle::read(&bytes).map_err(bad)?;
    let one = |way: &&[&str]| {
        let Some(value) = pickle.find(way) else { return Ok(None) };
        let (shape, content) = pickle.array(value).ok_or_else(|| bad(format!("`{}` is no array", way.join("."))))?;
        let values = decode("<f8", content).map_err(bad)?;
        if shape.iter().product::<usize>() != values.len() || content.len() != 8 * values.len() {
            return Err(bad(format!("`{}`: expected float64 numbers of shape {shape:?}", way.join("."))));
        }
        Ok(Some(Numbers { shape: shape.to_vec(), values }))
    };
    ways.iter().map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn npy(header: &str, content: &[u8]) -> Vec<u8> {
        [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes(), header.as_bytes(), content].concat()
    }

    #[test]
    fn headers_of_every_order() {
        let content: Vec<u8> = [1f32, 2., 3., 4., 5., 6.].iter().flat_map(|v| v.to_le_bytes()).collect();
        let bytes = npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }\n", &content);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.numbers(&bytes[header.bytes..]).unwrap().values, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        let scalar = Header::parse(&npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", &[])).unwrap();
        assert!(scalar.shape.is_empty() && scalar.elements() == Ok(1));
        assert!(scalar.numbers(&[0; 7]).is_err() && scalar.numbers(&[0; 16]).is_err());
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", &[0; 24]);
        assert!((0..bytes.len() - 24).all(|n| Header::parse(&bytes[..n]).is_err()));
        let objects = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &[0; 8]);
        let header = Header::parse(&objects).unwrap();
        assert!(header.numbers(&[0; 8]).unwrap_err().contains("|O"));
        let huge = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 99999999999), }", &[]);
        assert!(Header::parse(&huge).unwrap().elements().unwrap_err().contains("refused"));
    }
}
