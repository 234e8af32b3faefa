//! Which instructions this machine has: the one place where that is asked.

use std::sync::OnceLock;

/// The instruction set a kernel runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 16 lanes, 32 registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 8 lanes, 16 registers, fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Plain Rust; what the compiler makes of it for the target.
    Portable,
}

/// What the calls of this process use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The kernels, with these instructions.
    Kernels(Isa),
    /// The definitions in [`crate::slow`].
    Slow,
}

/// The choice for this process, made at the first call: the best instructions found, unless the environment
/// variable `DIFFUSION_KERNELS` says `avx2`, `portable` or `slow`. Of anything else but `best` a warning tells.
pub(crate) fn choice() -> Choice {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    *CHOICE.get_or_init(|| match std::env::var("DIFFUSION_KERNELS").as_deref() {
        Ok("slow") => Choice::Slow,
        Ok("portable") => Choice::Kernels(Isa::Portable),
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") if available().contains(&Isa::Avx2) => Choice::Kernels(Isa::Avx2),
        other => {
            if let Some(unknown) = other.ok().filter(|value| !["", "best"].contains(value)) {
                tracing::warn!(
                    "DIFFUSION_KERNELS is `{unknown}`, which is not to be had here; using the best kernels instead \
                     (known: best, avx2, portable, slow)"
                );
            }
            Choice::Kernels(available()[0])
        }
    })
}

/// Every instruction set this machine can run, the best first; never empty.
pub(crate) fn available() -> Vec<Isa> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if avx2 && is_x86_feature_detected!("avx512f") {
            found.push(Isa::Avx512);
        }
        if avx2 {
            found.push(Isa::Avx2);
        }
    }
    found.push(Isa::Portable);
    found
}

/// Defines a function that is compiled once per instruction set from one text.
///
/// The body may use the constant `FMA`: whether a fused multiply-add is a single instruction. The defined
/// function takes the [`Isa`] first.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(unsafe_code)]
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
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
                // SAFETY: values other than `Portable` come from `available` only, which has found the
                // instructions on this machine; tests go through them likewise.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                $crate::isa::Isa::Portable => body::<{ cfg!(target_arch = "aarch64") }>($($arg),*),
            }
        }
    };
}
pub(crate) use vectorised;
