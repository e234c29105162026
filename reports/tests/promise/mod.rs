//! What every page promises, whatever it shows.

/// Text that would be markup, run, reorder what stands beside it, or drive a terminal.
pub(crate) const HOSTILE: &str =
    "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)' \u{202e}\u{1b}[2J";

/// What stands between `<` and `>` in a page whose texts are escaped.
pub(crate) fn tags(page: &str) -> impl Iterator<Item = &str> {
    page.split('<').skip(1).filter_map(|rest| rest.split('>').next())
}

/// Holds that [`HOSTILE`] is shown, and is nothing but text. The page has `n_scripts` scripts of its own.
pub(crate) fn shows_hostile_text(page: &str, n_scripts: usize) {
    assert!(page.contains("&lt;script&gt;alert(1)"), "the text itself is shown");
    assert_eq!(page.matches("</style>").count(), 1);
    assert_eq!(page.matches("<script").count(), n_scripts);
    assert_eq!(page.matches("</script>").count(), n_scripts);
    for tag in tags(page) {
        let name = tag.split([' ', '\n']).next().unwrap();
        assert!(!["img", "iframe", "object", "embed", "link", "base"].contains(&name), "<{tag}>");
        let names: String = tag.split('"').step_by(2).collect();
        assert!(
            !names.contains("onerror") && !names.contains("onload"),
            "an attribute broke out of its quotes: <{tag}>"
        );
    }
    assert!(!page.contains(['\u{202e}', '\u{1b}']), "characters that reorder text or drive a terminal are spelt out");
}

/// Holds that a page asks for nothing, runs nothing but its `n_scripts` scripts, and that each link within it leads to one place.
pub(crate) fn is_self_contained(page: &str, n_scripts: usize) {
    assert!(page.contains("default-src 'none'; style-src 'sha256-"));
    for word in ["http:", "https:", "url(", "@import", "javascript:", "style=\""] {
        assert!(!page.contains(word), "{word}");
    }
    assert_eq!(page.matches("<script").count(), n_scripts);
    for tag in tags(page) {
        let names: String = tag.split('"').step_by(2).collect();
        assert!(!names.contains(" src=") && !names.contains(" on"), "<{tag}>");
        if let Some((_, target)) = tag.split_once("href=\"#") {
            let id = format!("id=\"{}\"", target.split('"').next().unwrap());
            assert!(page.contains(&id), "nothing on the page has {id}");
        }
    }
    let mut ids: Vec<&str> = tags(page).filter_map(|tag| tag.split(" id=\"").nth(1)?.split('"').next()).collect();
    let n = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), n, "an id is there twice");
}
