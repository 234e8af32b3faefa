//! Which instructions this machine has: the one place where that is asked.

use std::sync::OnceLock;

/// The instruction set a kernel runs with. Special instructions come with the proof that this machine has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 16 lanes, 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// 8 lanes, 16 registers, fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// Plain Rust; what the compiler makes of it for the target.
    Portable,
}

/// Proof that this machine has AVX-512F, AVX2 and FMA: only their detection makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Proof that this machine has AVX2 and FMA: only their detection makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    fn new() -> Option<Self> {
        (Avx2::new().is_some() && is_x86_feature_detected!("avx512f")).then_some(Self(()))
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// Every instruction set this machine can run, the best first; never empty.
pub(crate) fn available() -> Vec<Isa> {
    #[cfg(target_arch = "x86_64")]
    let special = [Avx512::new().map(Isa::Avx512), Avx2::new().map(Isa::Avx2)];
    #[cfg(not(target_arch = "x86_64"))]
    let special = [None];
    special.into_iter().flatten().chain([Isa::Portable]).collect()
}

/// The instructions that the kernels of this process use; none if [`crate::slow`] is to do everything.
///
/// They are chosen at the first call: the best available, unless the environment variable `DIFFUSION_KERNELS` says
/// `avx2`, `portable` or `slow`. Any other value but `best` gives a warning.
pub(crate) fn chosen() -> Option<Isa> {
    static CHOSEN: OnceLock<Option<Isa>> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let wanted = std::env::var("DIFFUSION_KERNELS").unwrap_or_default();
        let best = available()[0];
        let found = match wanted.as_str() {
            "" | "best" => Some(best),
            "slow" => return None,
            "portable" => Some(Isa::Portable),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Avx2::new().map(Isa::Avx2),
            _ => None,
        };
        if found.is_none() {
            tracing::warn!(
                "DIFFUSION_KERNELS is `{wanted}`, which is not available on this CPU; using the best kernels instead \
                 (known: best, avx2, portable, slow)"
            );
        }
        found.or(Some(best))
    })
}

/// Defines a function that is compiled once per instruction set from one text.
///
/// The body may use the constant `FMA`: whether a fused multiply-add is a single instruction. The defined
/// function takes the [`Isa`] first.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name(isa: $crate::arith::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            match isa {
                // SAFETY: the token proves that this machine has the instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::arith::isa::Isa::Avx512(_) => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::arith::isa::Isa::Avx2(_) => unsafe { avx2($($arg),*) },
                $crate::arith::isa::Isa::Portable => body::<{ cfg!(target_arch = "aarch64") }>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorised;
