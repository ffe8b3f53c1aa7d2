//! Pointwise activations.

use candle_core::{Result, Tensor};

use super::{
    device::{Arg, Buffer, Card, Launch, View},
    operator::{Operator, apply1},
    sources::ACTIVATION,
};
use crate::ops::cpu::activation::Function;

/// A function applied to each element.
pub(in crate::ops) fn pointwise(x: &Tensor, function: Function) -> crate::Result<Tensor> {
    apply1(Pointwise { function, shape: x.dims().to_vec() }, x)
}

/// `a · gelu(g)` of the halves (a, g) of each row; the result has `shape`.
pub(in crate::ops) fn geglu(x: &Tensor, shape: Vec<usize>) -> crate::Result<Tensor> {
    apply1(Geglu { shape }, x)
}

struct Pointwise {
    function: Function,
    shape: Vec<usize>,
}

impl Operator<1> for Pointwise {
    const NAME: &'static str = "activation";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, card: &Card, [x]: [View<'_>; 1]) -> Result<Buffer> {
        let kernel = match self.function {
            Function::Silu => "silu",
            Function::Gelu => "gelu",
            Function::GeluTanh => "gelu_tanh",
            Function::Relu => "relu",
            Function::LeakyRelu => "leaky_relu",
        };
        let mut y = card.alloc(x.dtype(), x.len)?;
        let args = vec![Arg::In(x), Arg::Out(&mut y), Arg::Long(x.len)];
        card.launch(Launch::each(&ACTIVATION, x.dtype(), kernel, x.len), args)?;
        Ok(y)
    }

    fn backward(&self, card: &Card, [x]: [View<'_>; 1], _: [bool; 1], _: View<'_>, dy: View<'_>) -> Result<[Option<Buffer>; 1]> {
        let kernel = match self.function {
            Function::Silu => "silu_gradient",
            Function::Gelu => "gelu_gradient",
            Function::GeluTanh => "gelu_tanh_gradient",
            Function::Relu => "relu_gradient",
            Function::LeakyRelu => "leaky_relu_gradient",
        };
        let mut dx = card.alloc(x.dtype(), x.len)?;
        let args = vec![Arg::In(x), Arg::In(dy), Arg::Out(&mut dx), Arg::Long(x.len)];
        card.launch(Launch::each(&ACTIVATION, x.dtype(), kernel, x.len), args)?;
        Ok([Some(dx)])
    }
}

struct Geglu {
    shape: Vec<usize>,
}

impl Geglu {
    fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

impl Operator<1> for Geglu {
    const NAME: &'static str = "geglu";

    fn shape(&self) -> Vec<usize> {
        self.shape.clone()
    }

    fn forward(&self, card: &Card, [x]: [View<'_>; 1]) -> Result<Buffer> {
        let n = x.len / 2;
        let mut y = card.alloc(x.dtype(), n)?;
        let args = vec![Arg::In(x), Arg::Out(&mut y), Arg::Long(n), Arg::Int(self.width())];
        card.launch(Launch::each(&ACTIVATION, x.dtype(), "geglu", n), args)?;
        Ok(y)
    }

    fn backward(&self, card: &Card, [x]: [View<'_>; 1], _: [bool; 1], _: View<'_>, dy: View<'_>) -> Result<[Option<Buffer>; 1]> {
        let mut dx = card.alloc(x.dtype(), x.len)?;
        let args = vec![Arg::In(x), Arg::In(dy), Arg::Out(&mut dx), Arg::Long(dy.len), Arg::Int(self.width())];
        card.launch(Launch::each(&ACTIVATION, x.dtype(), "geglu_gradient", dy.len), args)?;
        Ok([Some(dx)])
    }
}
