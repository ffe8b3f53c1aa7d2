//! A tensor as a view of a storage: checked once, copied only where it is not contiguous.

use bytes::Bytes;
use safetensors::Dtype;

use super::{
    super::budget::Budget,
    storage::{Storage, size_of_dtype},
};

/// More dimensions than any tensor has.
const MAX_RANK: usize = 64;

/// A checked view.
#[derive(Debug)]
pub(crate) struct View {
    storage: Storage,
    offset: u64,
    shape: Vec<usize>,
    strides: Vec<u64>,
}

impl View {
    /// Offset and strides count elements.
    pub(super) fn new(storage: Storage, offset: i64, size: &[i64], strides: &[i64], budget: &Budget) -> Result<Self, String> {
        if size.len() != strides.len() || size.len() > MAX_RANK {
            return Err(format!("a tensor of {} sizes and {} strides", size.len(), strides.len()));
        }
        let outside = || format!("a tensor {size:?} with strides {strides:?} from {offset} in a storage of {}", storage.len);
        let unsigned = |values: &[i64]| values.iter().map(|&v| u64::try_from(v)).collect::<Result<Vec<u64>, _>>();
        let (shape, steps) = (unsigned(size).map_err(|_| outside())?, unsigned(strides).map_err(|_| outside())?);
        let offset = u64::try_from(offset).map_err(|_| outside())?;
        let count = shape.iter().try_fold(1u64, |n, &s| n.checked_mul(s)).ok_or_else(outside)?;
        if count > 0 {
            let reach = |last: u64, (&s, &step): (&u64, &u64)| (s - 1).checked_mul(step)?.checked_add(last);
            let last = shape.iter().zip(&steps).try_fold(offset, reach).ok_or_else(outside)?;
            if last >= storage.len {
                return Err(outside());
            }
            let bytes = count.checked_mul(size_of_dtype(storage.dtype)).and_then(|b| usize::try_from(b).ok());
            if count > storage.len && !bytes.is_some_and(|bytes| budget.allows(bytes)) {
                return Err(format!("a tensor {size:?} repeats {} elements: too large to be made", storage.len));
            }
        }
        let shape = shape.iter().map(|&s| usize::try_from(s)).collect::<Result<_, _>>().map_err(|_| outside())?;
        Ok(Self { storage, offset, shape, strides: steps })
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.storage.dtype
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Size of its own elements.
    pub(super) fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * size_of_dtype(self.storage.dtype)
    }

    /// Its own elements, row-major and little-endian.
    pub(crate) fn read(&self) -> Result<Bytes, String> {
        let count: usize = self.shape.iter().product();
        if count == 0 {
            return Ok(Bytes::new());
        }
        let contents = self.storage.read()?;
        let width = size_of_dtype(self.storage.dtype) as usize;
        let first = (self.storage.first + self.offset) as usize * width;
        if self.is_contiguous() {
            return Ok(contents.slice(first..first + count * width));
        }
        let mut out = Vec::with_capacity(count * width);
        self.gather(&contents[first..], width, &mut out);
        Ok(out.into())
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size as u64;
            fits
        })
    }

    /// Walks the index of all dimensions but the last like an odometer.
    fn gather(&self, from: &[u8], width: usize, out: &mut Vec<u8>) {
        let (rows, last) = self.shape.split_at(self.shape.len() - 1);
        let (size, step) = (last[0], self.strides[rows.len()] as usize * width);
        let (mut index, mut at) = (vec![0; rows.len()], 0usize);
        loop {
            if step == width {
                out.extend_from_slice(&from[at..at + size * width]);
            } else {
                (0..size).for_each(|i| out.extend_from_slice(&from[at + i * step..][..width]));
            }
            let mut d = rows.len();
            loop {
                if d == 0 {
                    return;
                }
                d -= 1;
                let stride = self.strides[d] as usize * width;
                index[d] += 1;
                at += stride;
                if index[d] < rows[d] {
                    break;
                }
                at -= stride * rows[d];
                index[d] = 0;
            }
        }
    }
}
