//! What a kind answers.

use std::collections::BTreeMap;

use candle_core::{Device, Shape, Tensor, WithDType};

/// The tensors that a kind computed, by their names in `tensors.safetensors` (`out.x`, `grad.in.weight`).
#[derive(Debug, Default)]
pub struct Answer {
    pub(super) tensors: BTreeMap<String, Tensor>,
    pub(super) checked: bool,
    pub(super) not_run: Option<String>,
}

impl Answer {
    /// No tensor yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The answer of a kind without tensors, which has compared `expect` itself and found it right.
    pub fn checked() -> Self {
        Self { checked: true, ..Self::default() }
    }

    /// The case needs a file that is fetched, not stored, and it is not here: for cases with `requires_file` alone.
    pub fn not_run(why: impl Into<String>) -> Self {
        Self { not_run: Some(why.into()), ..Self::default() }
    }

    /// Adds the tensor `name`.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// The same, for a chain of calls.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tensor: Tensor) -> Self {
        self.insert(name, tensor);
        self
    }

    /// Adds the tensor `name` from its values, row-major.
    ///
    /// # Errors
    /// If there are not as many values as the shape has elements.
    pub fn insert_values<T: WithDType>(
        &mut self,
        name: impl Into<String>,
        values: Vec<T>,
        shape: impl Into<Shape>,
    ) -> anyhow::Result<()> {
        self.insert(name, Tensor::from_vec(values, shape.into(), &Device::Cpu)?);
        Ok(())
    }

    /// Adds the scalar `name` (shape []).
    ///
    /// # Errors
    /// If candle cannot make the tensor.
    pub fn insert_scalar<T: WithDType>(&mut self, name: impl Into<String>, value: T) -> anyhow::Result<()> {
        self.insert_values(name, vec![value], ())
    }
}
