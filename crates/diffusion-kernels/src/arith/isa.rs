//! Detection of the CPU's instruction sets, in this file only.

use std::sync::OnceLock;

use crate::Precision;
use crate::arith::format::Format;

/// The instruction set of a kernel. The variants with special instructions hold a token that only
/// detection can create, so a value proves that the CPU has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 16 lanes, 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// 8 lanes, 16 registers, fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Plain Rust, vectorised by the compiler for the target.
    Portable,
}

/// A token that proves that the CPU has AVX-512F, AVX2 and FMA. If its flag is set, it also has
/// AVX512-BF16 and AVX-512BW.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512 {
    bf16: bool,
}

/// A token that proves that the CPU has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    fn new() -> Option<Self> {
        (Avx2::new().is_some() && is_x86_feature_detected!("avx512f"))
            .then_some(Self { bf16: false })
    }

    /// Whether products are of bf16.
    pub(crate) fn has_bf16(self) -> bool {
        self.bf16
    }
}

impl Isa {
    /// The instruction set of kernels that compute in `precision`. Without special instructions for
    /// bf16, it is the same as for f32.
    pub(crate) fn in_precision(self, precision: Precision) -> Self {
        match (self, precision) {
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512(_), _) => Self::Avx512(Avx512 {
                bf16: precision == Precision::Bf16
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512bw"),
            }),
            (other, _) => other,
        }
    }

    /// The format of the factors of products.
    pub(crate) fn format(self) -> Format {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(Avx512 { bf16: true }) => Format::Bf16,
            _ => Format::F32,
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// All instruction sets that the CPU supports, the best first. Never empty.
pub(crate) fn available() -> Vec<Isa> {
    #[cfg(target_arch = "x86_64")]
    let special = [Avx512::new().map(Isa::Avx512), Avx2::new().map(Isa::Avx2)];
    #[cfg(not(target_arch = "x86_64"))]
    let special = [None];
    special.into_iter().flatten().chain([Isa::Portable]).collect()
}

/// The instruction set of this process's kernels; `None` if [`crate::slow`] computes everything.
///
/// It is selected at the first call: the best one available, unless the environment variable
/// `DIFFUSION_KERNELS` is `avx2`, `portable` or `slow`. An unknown or unavailable value logs a
/// warning and selects the best.
pub(crate) fn selected() -> Option<Isa> {
    static SELECTED: OnceLock<Option<Isa>> = OnceLock::new();
    *SELECTED.get_or_init(|| {
        let requested = std::env::var("DIFFUSION_KERNELS").unwrap_or_default();
        let best = available()[0];
        let selected = match requested.as_str() {
            "" | "best" => Some(best),
            "slow" => return None,
            "portable" => Some(Isa::Portable),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Avx2::new().map(Isa::Avx2),
            _ => None,
        };
        if selected.is_none() {
            tracing::warn!(
                "DIFFUSION_KERNELS is `{requested}`, which is not available on this CPU; using the best kernels instead \
                 (known: best, avx2, portable, slow)"
            );
        }
        selected.or(Some(best))
    })
}

/// Defines a function whose body is compiled once for each instruction set.
///
/// The body may use the constant `FMA`, whether a fused multiply-add is a single instruction, and
/// the type `L` of vectors of 16 numbers (`arith/lanes.rs`). The first argument of the defined
/// function is the [`Isa`]. After `pairs:`, the body is also compiled for AVX512-BF16, which makes
/// pairs of bf16 faster.
macro_rules! vectorised {
    (pairs: $($function:tt)*) => {
        $crate::arith::isa::vectorised! { @true $($function)* }
    };
    (@$pairs:literal $(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name(isa: $crate::arith::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FMA: bool, L: $crate::arith::lanes::Lanes>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true, $crate::arith::lanes::Avx512<false>>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx2,fma")]
            fn avx512_bf16($($arg: $ty),*) $(-> $ret)? {
                body::<true, $crate::arith::lanes::Avx512<true>>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true, $crate::arith::lanes::Avx2>($($arg),*)
            }

            match isa {
                // SAFETY: the token proves that the CPU has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::arith::isa::Isa::Avx512(token) => unsafe {
                    if $pairs && token.has_bf16() { avx512_bf16($($arg),*) } else { avx512($($arg),*) }
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::arith::isa::Isa::Avx2(_) => unsafe { avx2($($arg),*) },
                $crate::arith::isa::Isa::Portable => {
                    body::<{ cfg!(target_arch = "aarch64") }, $crate::arith::lanes::Portable>($($arg),*)
                }
            }
        }
    };
    ($($function:tt)*) => {
        $crate::arith::isa::vectorised! { @false $($function)* }
    };
}
pub(crate) use vectorised;
