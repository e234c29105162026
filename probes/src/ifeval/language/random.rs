//! Python's `random.Random`: the numbers that the reference draws.
//!
//! # Reference
//! Matsumoto and Nishimura 1998, *Mersenne Twister*, ACM TOMACS 8; Python 3.11, `Modules/_randommodule.c`, `Lib/random.py`.

const N: usize = 624;
const M: usize = 397;

/// A generator of numbers.
pub(super) struct Random {
    state: [u32; N],
    at: usize,
    /// The second of two normal numbers that are made together.
    spare: Option<f64>,
}

impl Random {
    /// `Random(seed)`.
    pub(super) fn seeded(seed: u32) -> Self {
        let mut state = [0_u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            state[i] = mix(state[i - 1], 1_812_433_253).wrapping_add(i as u32);
        }
        let mut i = 1;
        for _ in 0..N {
            state[i] = (state[i] ^ mix(state[i - 1], 1_664_525)).wrapping_add(seed);
            i = next(&mut state, i);
        }
        for _ in 0..N - 1 {
            state[i] = (state[i] ^ mix(state[i - 1], 1_566_083_941)).wrapping_sub(i as u32);
            i = next(&mut state, i);
        }
        state[0] = 0x8000_0000;
        Self { state, at: N, spare: None }
    }

    /// 32 random bits.
    fn bits(&mut self) -> u32 {
        if self.at == N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `random()`: a number in [0, 1).
    fn uniform(&mut self) -> f64 {
        let (high, low) = (self.bits() >> 5, self.bits() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    /// `gauss(0, 1)`.
    pub(super) fn gauss(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = self.uniform() * std::f64::consts::TAU;
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        self.spare = Some(angle.sin() * radius);
        angle.cos() * radius
    }

    /// The index that `choice` takes of `n` values; `n` is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        let n_bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = (self.bits() >> (32 - n_bits)) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }
}

fn mix(previous: u32, factor: u32) -> u32 {
    (previous ^ (previous >> 30)).wrapping_mul(factor)
}

/// The place after `i`, from the last one round to 1.
fn next(state: &mut [u32; N], i: usize) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn numbers_are_pythons() {
        // random.seed(0); [random.random(), random.gauss(0, 1), random.gauss(0, 1)]; [random.choice(range(1000)) for _ in range(5)]
        let mut random = Random::seeded(0);
        let drawn = [random.uniform(), random.gauss(), random.gauss()];
        let expected = [0.844_421_851_525_048_1, 0.052_191_988_282_608_49, -1.043_408_974_200_573_7];
        for (drawn, expected) in drawn.into_iter().zip(expected) {
            assert!((drawn - expected).abs() < 1e-15, "{drawn} {expected}");
        }
        assert_eq!([0; 5].map(|_| random.below(1000)), [265, 988, 523, 497, 414]);
    }
}
