//! Pictures of a page, for people to look at: narrow, wide and very wide, light and dark, and printed.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::driver::Browser;
use super::pages::Page;

/// Windows: a phone, a laptop, a large screen.
const WINDOWS: [(u32, u32); 3] = [(390, 844), (1280, 800), (2560, 1440)];
/// A4 at 96 dots per inch.
const PAPER: (u32, u32) = (794, 1123);
/// Chrome draws no picture much higher.
const HIGHEST: f64 = 12_000.0;

/// Writes `NAME-WIDTH-SCHEME.png` (the first screen), `NAME-WIDTH-whole.png`, `NAME-print.png` (the first sheet) and `NAME-print.pdf`.
pub(crate) fn take(browser: &Browser, page: &Page, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let write = |name: String, answer: Value| {
        fs::write(folder.join(format!("{}-{name}", page.name)), decode(answer["data"].as_str().unwrap())).unwrap();
    };
    browser.open(&page.path);
    for (width, height) in WINDOWS {
        browser.resize(width, height);
        for scheme in ["dark", "light"] {
            browser.prefer(scheme);
            write(format!("{width}-{scheme}.png"), browser.command("Page.captureScreenshot", &json!({})));
        }
        let size = browser.command("Page.getLayoutMetrics", &json!({}));
        let height = size["cssContentSize"]["height"].as_f64().unwrap().min(HIGHEST);
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let whole = json!({"captureBeyondViewport": true, "clip": clip});
        write(format!("{width}-whole.png"), browser.command("Page.captureScreenshot", &whole));
    }
    browser.command("Emulation.setEmulatedMedia", &json!({"media": "print", "features": []}));
    browser.resize(PAPER.0, PAPER.1);
    write("print.png".to_owned(), browser.command("Page.captureScreenshot", &json!({})));
    browser.prefer("light");
    let sheet = json!({"printBackground": true, "preferCSSPageSize": true, "paperWidth": 8.27, "paperHeight": 11.69});
    write("print.pdf".to_owned(), browser.command("Page.printToPDF", &sheet));
}

/// The bytes of text in base64 (RFC 4648).
fn decode(text: &str) -> Vec<u8> {
    let sextet = |letter: u8| match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.trim_end_matches('=').bytes().map(sextet).collect();
    let word = |letters: &[u8]| letters.iter().fold(0_u32, |word, &sextet| word << 6 | u32::from(sextet));
    letters
        .chunks(4)
        .flat_map(|chunk| {
            // Of a last chunk that is not full the lowest bits are padding.
            let bytes = (word(chunk) << (32 - 6 * chunk.len())).to_be_bytes();
            bytes.into_iter().take(chunk.len() * 6 / 8)
        })
        .collect()
}

#[test]
fn base64_is_decoded_as_in_rfc_4648() {
    let cases = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
    for (n, text) in cases.into_iter().enumerate() {
        assert_eq!(decode(text), b"foobar"[..n]);
    }
}
