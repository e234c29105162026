//! Which characters are an emoji by themselves.

use std::sync::LazyLock;

/// First and last character of each range, in order.
static RANGES: LazyLock<Vec<(u32, u32)>> = LazyLock::new(|| {
    let lines = include_str!("../../data/emoji.txt").lines();
    lines
        .filter_map(|line| {
            let (first, last) = line.split_once('-').unwrap_or((line, line));
            Some((u32::from_str_radix(first, 16).ok()?, u32::from_str_radix(last, 16).ok()?))
        })
        .collect()
});

/// `emoji.is_emoji` of one character.
pub(super) fn is_emoji(c: char) -> bool {
    let c = u32::from(c);
    let after = RANGES.partition_point(|&(first, _)| first <= c);
    after.checked_sub(1).is_some_and(|at| c <= RANGES[at].1)
}

#[cfg(test)]
mod tests {
    use super::{RANGES, is_emoji};

    #[test]
    fn emoji_are_told_from_other_characters() {
        assert!(['😀', '❤', '™', '🫠', '🏻'].into_iter().all(is_emoji));
        assert!(!['a', '#', '1', '🇩', '\u{fe0f}', '\u{200d}', '☙', '\u{1ffff}'].into_iter().any(is_emoji));
        assert!(RANGES.windows(2).all(|pair| pair[0].0 <= pair[0].1 && pair[0].1 < pair[1].0));
    }
}
