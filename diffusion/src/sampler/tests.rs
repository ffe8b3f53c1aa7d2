//! Tests of all samplers together are in `tests/`.
