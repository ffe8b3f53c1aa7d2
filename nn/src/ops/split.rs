//! The rows of a batch in consecutive parts.

use candle_core::Tensor;

use crate::{
    Error, Result,
    graph::{Link, Made, Slot, token, wants_gradient},
};

/// The first `sizes[0]` rows of x, the next `sizes[1]` and so on. x: `[B, ...]` -> `[sizes[i], ...]` each.
///
/// Other than with as many `narrow`, whose gradients each touch all of x, the parts' gradients are put together once.
///
/// # Errors
/// If the sizes do not add up to B or one of them is 0.
pub fn split_rows(x: &Tensor, sizes: &[usize]) -> Result<Vec<Tensor>> {
    if x.dims().first() != Some(&sizes.iter().sum()) || sizes.contains(&0) {
        return Err(Error::argument("split_rows", "sizes", "numbers above 0 that add up to the rows of x", (sizes, x.dims())));
    }
    let mut first = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for &rows in sizes {
        parts.push(x.detach().narrow(0, first, rows)?);
        first += rows;
    }
    if !wants_gradient(x) {
        return Ok(parts);
    }
    let slots: Vec<Slot> = sizes.iter().map(|_| Slot::default()).collect();
    let pieces: Vec<(Slot, Tensor)> = slots.iter().cloned().zip(parts.iter().cloned()).collect();
    let hub = token(x)?.apply_op2(x, Link::new(move || together(&pieces)))?;
    let node = |(y, slot): (Tensor, Slot)| {
        hub.apply_op1(Made::new(y, move |dy| {
            slot.put(dy.clone());
            Ok(())
        }))
    };
    Ok(parts.into_iter().zip(slots).map(node).collect::<candle_core::Result<_>>()?)
}

/// The gradient of the whole; a part that nothing depends on has zeros.
fn together(pieces: &[(Slot, Tensor)]) -> candle_core::Result<Option<Tensor>> {
    let gradient = |(slot, part): &(Slot, Tensor)| slot.take().map_or_else(|| part.zeros_like(), Ok);
    let gradients: Vec<Tensor> = pieces.iter().map(gradient).collect::<candle_core::Result<_>>()?;
    Ok(Some(Tensor::cat(&gradients, 0)?))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn gradients_of_parts_are_put_together() -> Result<()> {
        let x = Var::from_tensor(&Tensor::arange(0f32, 12.0, &Device::Cpu)?.reshape((4, 3))?)?;
        let parts = split_rows(x.as_tensor(), &[1, 2, 1])?;
        assert_eq!(parts[1].to_vec2::<f32>()?, [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]);
        // The first part is used twice, the last one not at all.
        let loss = ((parts[0].sqr()?.sum_all()? + (&parts[0] * 2.0)?.sum_all()?)? + (&parts[1] * 3.0)?.sum_all()?)?;
        let gradient = loss.backward()?.remove(&x).map(|g| g.to_vec2::<f32>()).transpose()?;
        assert_eq!(gradient, Some(vec![vec![2.0, 4.0, 6.0], vec![3.0; 3], vec![3.0; 3], vec![0.0; 3]]));
        Ok(())
    }

    #[test]
    fn sizes_that_do_not_add_up_are_refused() -> Result<()> {
        let x = Tensor::zeros((4, 3), candle_core::DType::F32, &Device::Cpu)?;
        for sizes in [&[1, 2][..], &[4, 0], &[], &[5]] {
            let text = split_rows(&x, sizes).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(text.contains("split_rows") && text.contains("[4, 3]"), "{text}");
        }
        Ok(())
    }
}
