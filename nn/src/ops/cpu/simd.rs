//! Loops compiled for the widest vectors of the machine.

use std::sync::OnceLock;

/// Defines functions whose bodies are compiled three times, for AVX-512, for AVX2 and as the target is, and picked when called.
/// The three compute the same bits: no operation is contracted or reordered.
macro_rules! vectorized {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                match $crate::ops::cpu::simd::level() {
                    // SAFETY: all enabled features were found in this processor.
                    $crate::ops::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: the enabled feature was found in this processor.
                    $crate::ops::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::cpu::simd::Level::Portable => {}
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use vectorized;

/// A loop over generic numbers, which `vectorized!` cannot name.
pub trait Loop {
    /// What it answers.
    type Output;

    /// Runs it. Inlined always, it is compiled for the vectors that [`widest`] picks; the bits are the same with all of them.
    fn run(self) -> Self::Output;
}

/// Runs a loop, compiled for the widest vectors of the machine.
pub fn widest<L: Loop>(work: L) -> L::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn avx512<L: Loop>(work: L) -> L::Output {
            work.run()
        }
        #[target_feature(enable = "avx2")]
        fn avx2<L: Loop>(work: L) -> L::Output {
            work.run()
        }
        match level() {
            // SAFETY: all enabled features were found in this processor.
            Level::Avx512 => return unsafe { avx512(work) },
            // SAFETY: the enabled feature was found in this processor.
            Level::Avx2 => return unsafe { avx2(work) },
            Level::Portable => {}
        }
    }
    work.run()
}

/// The widest vectors that kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Those that the target has at least.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// What the processor can, or less where the environment variable `STRATA_SIMD` says `avx2` or `portable`: so that one machine
/// tests the paths of all.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let most = match std::env::var("STRATA_SIMD").as_deref() {
            Ok("portable") => Level::Portable,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        most.min(of_processor())
    })
}

#[cfg(target_arch = "x86_64")]
fn of_processor() -> Level {
    use std::is_x86_feature_detected as has;
    match () {
        () if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") => Level::Avx512,
        () if has!("avx2") && has!("fma") => Level::Avx2,
        () => Level::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn of_processor() -> Level {
    Level::Portable
}
