//! Which instruction set the loops of this device run on. Found at run time; whoever has loops of
//! its own for a set matches on it.

/// An instruction set that this machine has: only [`Isa::detect`] and [`Isa::all`] make one, which
/// is what the calls into `#[target_feature]` functions rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The widest set of this machine.
    pub fn detect() -> Isa {
        let all = Isa::all();
        all[all.len() - 1]
    }

    /// All sets of this machine, the scalar twin first.
    pub fn all() -> Vec<Isa> {
        let mut all = vec![Isa(Level::Scalar)];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 {
                all.push(Isa(Level::Avx2));
            }
            if avx2 && avx512 {
                all.push(Isa(Level::Avx512));
            }
        }
        all
    }

    pub(super) fn level(self) -> Level {
        self.0
    }

    /// For logs.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
        }
    }
}

/// Run a piece of plain code compiled for the instruction set: loops in `f` (and what is inlined
/// into it) use its registers. `f` must be `#[inline(always)]` all the way down to gain.
#[inline(always)]
pub fn with_isa<T>(isa: Isa, f: impl FnOnce() -> T) -> T {
    match isa.0 {
        Level::Scalar => f(),
        // SAFETY: an `Isa` exists only if `all` found every feature that is enabled there.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { call_avx2(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { call_avx512(f) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn call_avx2<T>(f: impl FnOnce() -> T) -> T {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn call_avx512<T>(f: impl FnOnce() -> T) -> T {
    f()
}
