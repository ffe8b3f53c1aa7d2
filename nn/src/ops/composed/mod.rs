//! The operators composed of candle's, on every device and in every dtype: the reference for the kernels.

pub(super) mod convolution;
