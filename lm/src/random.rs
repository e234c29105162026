//! The one source of randomness: named streams, each a pure function of seed, name and step.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// Opens the stream `name` of `seed` at `step`.
///
/// A stream has no state to save: a training step that draws from `stream(seed, "batch", step)` draws the same after a
/// resume as it would have undisturbed.
pub fn stream(seed: u64, name: &str, step: u64) -> ChaCha8Rng {
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    hasher.update(step.to_le_bytes());
    hasher.update(name.as_bytes());
    ChaCha8Rng::from_seed(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::stream;
    use rand::Rng;

    #[test]
    fn streams_repeat_and_differ_by_seed_name_and_step() {
        let draw = |seed, name, step| stream(seed, name, step).random::<u64>();
        assert_eq!(draw(1, "batch", 3), draw(1, "batch", 3));
        assert_ne!(draw(1, "batch", 3), draw(2, "batch", 3));
        assert_ne!(draw(1, "batch", 3), draw(1, "init", 3));
        assert_ne!(draw(1, "batch", 3), draw(1, "batch", 4));
    }
}
