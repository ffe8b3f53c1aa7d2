//! The operators composed of candle's, on every device and in every dtype: the reference for the kernels.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod convolution;
pub(super) mod fir;
pub(super) mod linear;
pub(super) mod loss;
pub(super) mod normalization;
pub(super) mod pool;
pub(super) mod resample;
