//! Choice of vector instructions at run time, so that one portable binary is fast everywhere.
//!
//! Loops that the compiler can vectorise by itself are compiled three times by [`vectorize!`]; the matrix product
//! names its registers through [`Vector`]. The level is a property of the machine and constant during a process, so
//! results repeat from run to run on one machine; between machines with different levels they may differ in the last bits.

use crate::element::Element;

/// Vector instructions that this machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 (F, VL, DQ, BW) with FMA: 32 registers of 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA: 16 registers of 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the target guarantees.
    Portable,
}

/// The best level of this machine.
#[inline]
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("fma")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Portable
}

/// Defines a function generic over [`Element`] whose body is compiled for every [`Level`] and chosen at the call.
macro_rules! vectorize {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$T:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name<$T: $crate::element::Element>($($arg: $ty),*) $(-> $ret)? {
            #[allow(clippy::inline_always, clippy::too_many_arguments)]
            #[inline(always)]
            fn body<$T: $crate::element::Element>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512<$T: $crate::element::Element>($($arg: $ty),*) $(-> $ret)? {
                    body::<$T>($($arg),*)
                }
                #[allow(clippy::too_many_arguments)]
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$T: $crate::element::Element>($($arg: $ty),*) $(-> $ret)? {
                    body::<$T>($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` found these features on this machine; AVX-512F brings AVX2 with it.
                    $crate::simd::Level::Avx512 => return unsafe { avx512::<$T>($($arg),*) },
                    // SAFETY: `level` found these features on this machine.
                    $crate::simd::Level::Avx2 => return unsafe { avx2::<$T>($($arg),*) },
                    $crate::simd::Level::Portable => {}
                }
            }
            body::<$T>($($arg),*)
        }
    };
}
pub(crate) use vectorize;

/// One vector register, as the matrix product uses it.
pub(crate) trait Vector: Copy {
    /// What a lane holds.
    type Item: Element;
    /// Number of lanes.
    const LANES: usize;

    /// All lanes zero.
    ///
    /// # Safety
    /// The machine must have the instructions of this type's [`Level`].
    unsafe fn zero() -> Self;
    /// `LANES` values from `from`, of any alignment.
    ///
    /// # Safety
    /// As for `zero`; `from` must be valid for reading `LANES` values.
    unsafe fn load(from: *const Self::Item) -> Self;
    /// The value at `from` in all lanes.
    ///
    /// # Safety
    /// As for `zero`; `from` must be aligned and valid for reading one value.
    unsafe fn splat(from: *const Self::Item) -> Self;
    /// `a * b + self`.
    ///
    /// # Safety
    /// As for `zero`.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// `self + other`.
    ///
    /// # Safety
    /// As for `zero`.
    unsafe fn plus(self, other: Self) -> Self;
    /// Writes the lanes to `to`, of any alignment.
    ///
    /// # Safety
    /// As for `zero`; `to` must be valid for writing `LANES` values.
    unsafe fn store(self, to: *mut Self::Item);
}

#[cfg(target_arch = "x86_64")]
macro_rules! x86_vector {
    ($reg:ident, $item:ty, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $fma:ident, $add:ident, $store:ident) => {
        #[allow(clippy::inline_always)]
        impl Vector for std::arch::x86_64::$reg {
            type Item = $item;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller vouches for the instructions, the only demand of this intrinsic.
                unsafe { std::arch::x86_64::$zero() }
            }
            #[inline(always)]
            unsafe fn load(from: *const $item) -> Self {
                // SAFETY: the caller vouches for the instructions and for `LANES` values at `from`; `loadu` takes any
                // alignment.
                unsafe { std::arch::x86_64::$load(from) }
            }
            #[inline(always)]
            unsafe fn splat(from: *const $item) -> Self {
                // SAFETY: the caller vouches for the instructions and for one aligned value at `from`.
                unsafe { std::arch::x86_64::$splat(*from) }
            }
            #[inline(always)]
            unsafe fn add_product(self, a: Self, b: Self) -> Self {
                // SAFETY: the caller vouches for the instructions; FMA is among those of either level.
                unsafe { std::arch::x86_64::$fma(a, b, self) }
            }
            #[inline(always)]
            unsafe fn plus(self, other: Self) -> Self {
                // SAFETY: the caller vouches for the instructions, the only demand of this intrinsic.
                unsafe { std::arch::x86_64::$add(self, other) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $item) {
                // SAFETY: the caller vouches for the instructions and for room for `LANES` values at `to`; `storeu` takes any
                // alignment.
                unsafe { std::arch::x86_64::$store(to, self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_vector!(
    __m512,
    f32,
    16,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_add_ps,
    _mm512_storeu_ps
);
#[cfg(target_arch = "x86_64")]
x86_vector!(
    __m256,
    f32,
    8,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_add_ps,
    _mm256_storeu_ps
);
#[cfg(target_arch = "x86_64")]
x86_vector!(
    __m512d,
    f64,
    8,
    _mm512_setzero_pd,
    _mm512_loadu_pd,
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_add_pd,
    _mm512_storeu_pd
);
#[cfg(target_arch = "x86_64")]
x86_vector!(
    __m256d,
    f64,
    4,
    _mm256_setzero_pd,
    _mm256_loadu_pd,
    _mm256_set1_pd,
    _mm256_fmadd_pd,
    _mm256_add_pd,
    _mm256_storeu_pd
);

/// Four values that the compiler maps to whatever the target has.
#[derive(Clone, Copy)]
pub(crate) struct Portable<T>([T; 4]);

#[allow(clippy::inline_always)]
impl<T: Element> Vector for Portable<T> {
    type Item = T;
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([T::ZERO; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const T) -> Self {
        // SAFETY: the caller vouches for four values at `from`, which an array of four has in a row without gaps.
        Self(unsafe { from.cast::<[T; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn splat(from: *const T) -> Self {
        // SAFETY: the caller vouches for one aligned value at `from`.
        Self([unsafe { *from }; 4])
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut T) {
        // SAFETY: the caller vouches for room for four values at `to`.
        unsafe { to.cast::<[T; 4]>().write_unaligned(self.0) }
    }
}
