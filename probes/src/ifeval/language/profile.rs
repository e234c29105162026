//! How often each language has each n-gram.

use std::sync::LazyLock;

/// Number of languages.
pub(super) const N_LANGUAGES: usize = 55;

/// The profiles of `langdetect` 1.0.9.
pub(super) static PROFILES: LazyLock<Profiles> =
    LazyLock::new(|| Profiles::parse(include_str!("../../../data/langdetect.txt")));

/// A language.
pub(super) struct Language {
    /// Its code, ISO 639-1 with a region where needed.
    pub(super) name: &'static str,
    /// How many n-grams of one, two and three letters it was learnt from.
    n_grams: [f64; 3],
}

/// All languages, and a line for each n-gram.
pub(super) struct Profiles {
    /// In the order of their letters.
    pub(super) languages: Vec<Language>,
    /// In the order of n-grams, each with a tab and what follows: a letter for the language and how often it has the n-gram.
    lines: Vec<&'static str>,
}

impl Profiles {
    fn parse(text: &'static str) -> Self {
        let (head, grams) = text.split_once("\n\n").unwrap_or((text, ""));
        let languages = head.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let name = words.next()?;
            let n_grams = [0; 3].map(|_| words.next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN));
            Some(Language { name, n_grams })
        });
        Self { languages: languages.collect(), lines: grams.lines().collect() }
    }

    /// The place of an n-gram.
    pub(super) fn find(&self, gram: &str) -> Option<usize> {
        self.lines.binary_search_by(|line| split(line).0.cmp(gram)).ok()
    }

    /// How often each language has the n-gram at a place, of all its n-grams of that length.
    pub(super) fn frequencies(&self, place: usize) -> [f64; N_LANGUAGES] {
        let (gram, counts) = split(self.lines[place]);
        let n_letters = gram.chars().count();
        let mut frequencies = [0.0; N_LANGUAGES];
        for (language, count) in counts.split(' ').filter_map(parse_count) {
            frequencies[language] = count / self.languages[language].n_grams[n_letters - 1];
        }
        frequencies
    }
}

fn split(line: &str) -> (&str, &str) {
    line.split_once('\t').unwrap_or((line, ""))
}

/// The language and the number in e.g. `k1263874`; languages are a to z, A to Z and from α on.
fn parse_count(text: &str) -> Option<(usize, f64)> {
    let letter = text.chars().next()?;
    let language = match letter {
        'a'..='z' => letter as usize - 'a' as usize,
        'A'..='Z' => 26 + letter as usize - 'A' as usize,
        _ => 52 + (letter as usize).checked_sub('α' as usize)?,
    };
    let count = text[letter.len_utf8()..].parse().ok()?;
    (language < N_LANGUAGES).then_some((language, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_are_all_there() {
        assert_eq!(PROFILES.languages.len(), N_LANGUAGES);
        assert_eq!(PROFILES.lines.len(), 87_598);
        assert!(PROFILES.lines.is_sorted_by_key(|line| split(line).0));
        let mut n_counts = 0;
        for (place, line) in PROFILES.lines.iter().enumerate() {
            let (gram, counts) = split(line);
            assert!((1..=3).contains(&gram.chars().count()), "{line}");
            assert_eq!(PROFILES.find(gram), Some(place));
            let parsed = counts.split(' ').map(|text| parse_count(text).unwrap_or_else(|| panic!("{line}")));
            n_counts += parsed.inspect(|(_, count)| assert!(*count > 0.0)).count();
        }
        assert_eq!(n_counts, 184_129);
        assert_eq!(PROFILES.find("§§"), None);
    }

    #[test]
    fn frequencies_are_of_n_grams_of_one_length() {
        let frequencies = PROFILES.frequencies(PROFILES.find(" A").unwrap());
        let of =
            |name: &str| frequencies[PROFILES.languages.iter().position(|language| language.name == name).unwrap()];
        assert_eq!(of("en"), 1_263_874.0 / 308_553_243.0);
        assert_eq!(of("ar"), 0.0);
    }
}
