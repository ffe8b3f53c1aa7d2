//! The affine map as a matrix product in the type of x; the weight's gradient is summed and kept in float32.

use candle_core::{DType, Result, Tensor};

use super::{
    convolution::{add_bias, weight_in},
    device::{Buffer, Card, View},
    gemm::{Gemm, Side},
    operator::{Operator, apply2, apply3, float},
    sums::column_sums,
};
use crate::ops::cpu::linear::Sizes;

/// `x Wᵀ + b`; weight and bias are taken in float32.
pub(in crate::ops) fn linear(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    shape: Vec<usize>,
    sizes: Sizes,
) -> crate::Result<Tensor> {
    let operator = Linear { shape, sizes };
    match bias {
        Some(bias) => apply3(operator, x, &float(weight)?, &float(bias)?),
        None => apply2(operator, x, &float(weight)?),
    }
}

struct Linear {
    shape: Vec<usize>,
    sizes: Sizes,
}

/// A weight `[n_out, n_in]` in the type of the product: as it is, or cast.
pub(super) enum Cast<'a> {
    Same(View<'a>),
    Other(Buffer),
}

impl<'a> Cast<'a> {
    pub fn to(card: &Card, weight: View<'a>, dtype: DType) -> Result<Self> {
        match weight.dtype() == dtype {
            true => Ok(Self::Same(weight)),
            false => weight_in(card, weight, dtype, 1, 1).map(Self::Other),
        }
    }

    pub fn view(&self) -> View<'_> {
        match self {
            Self::Same(view) => *view,
            Self::Other(buffer) => buffer.view(),
        }
    }
}

/// y `[rows, n_out]`.
pub(super) fn forward(card: &Card, s: Sizes, x: View<'_>, weight: View<'_>, bias: Option<View<'_>>) -> Result<Buffer> {
    let weight = Cast::to(card, weight, x.dtype())?;
    let mut y = card.alloc(x.dtype(), s.rows * s.n_out)?;
    let product = Gemm::new([s.rows, s.n_out, s.n_in], Side::rows(s.n_in), Side::rows(s.n_in).t());
    card.gemm(&product, x, weight.view(), &mut y, 0)?;
    if let Some(bias) = bias {
        add_bias(card, &mut y, x.dtype(), bias)?;
    }
    Ok(y)
}

/// dx `[rows, n_in]`.
pub(super) fn input_gradient(card: &Card, s: Sizes, dy: View<'_>, weight: View<'_>) -> Result<Buffer> {
    let weight = Cast::to(card, weight, dy.dtype())?;
    let mut dx = card.alloc(dy.dtype(), s.rows * s.n_in)?;
    let product = Gemm::new([s.rows, s.n_in, s.n_out], Side::rows(s.n_out), Side::rows(s.n_in));
    card.gemm(&product, dy, weight.view(), &mut dx, 0)?;
    Ok(dx)
}

/// dW `[n_out, n_in]`, float32.
pub(super) fn weight_gradient(card: &Card, s: Sizes, x: View<'_>, dy: View<'_>) -> Result<Buffer> {
    let mut dw = card.alloc(DType::F32, s.n_out * s.n_in)?;
    let product = Gemm::new([s.n_out, s.n_in, s.rows], Side::rows(s.n_out).t(), Side::rows(s.n_in));
    card.gemm(&product, dy, x, &mut dw, 0)?;
    Ok(dw)
}

impl Linear {
    fn gradients(&self, card: &Card, [x, w]: [View<'_>; 2], wanted: [bool; 2], dy: View<'_>) -> Result<[Option<Buffer>; 2]> {
        let dx = wanted[0].then(|| input_gradient(card, self.sizes, dy, w)).transpose()?;
        Ok([dx, wanted[1].then(|| weight_gradient(card, self.sizes, x, dy)).transpose()?])
    }
}

impl Operator<2> for Linear {
    const NAME: &'static str = "linear";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, card: &Card, [x, w]: [View<'_>; 2]) -> Result<Buffer> {
        forward(card, self.sizes, x, w, None)
    }

    fn backward(
        &self,
        card: &Card,
        args: [View<'_>; 2],
        wanted: [bool; 2],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 2]> {
        self.gradients(card, args, wanted, dy)
    }
}

impl Operator<3> for Linear {
    const NAME: &'static str = "linear";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, card: &Card, [x, w, b]: [View<'_>; 3]) -> Result<Buffer> {
        forward(card, self.sizes, x, w, Some(b))
    }

    fn backward(
        &self,
        card: &Card,
        [x, w, _]: [View<'_>; 3],
        wanted: [bool; 3],
        _: View<'_>,
        dy: View<'_>,
    ) -> Result<[Option<Buffer>; 3]> {
        let [dx, dw] = self.gradients(card, [x, w], [wanted[0], wanted[1]], dy)?;
        Ok([dx, dw, wanted[2].then(|| column_sums(card, dy, self.sizes.n_out)).transpose()?])
    }
}
