//! What is asked of a page in the browser; each answer is a list of what is wrong.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::driver::{Browser, skip};

/// The version of axe-core that `tests/browser/fetch_axe.sh` fetches.
pub(crate) const AXE_VERSION: &str = "4.14.1";

/// Everything that axe knows of levels A and AA.
const CRITERIA: [&str; 5] = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

/// Opens what is folded: what is hidden has neither width nor contrast.
pub(crate) const UNFOLD: &str = "document.querySelectorAll('details').forEach(details => { details.open = true; });";

const VIOLATIONS: &str = "
return axe.run(document, {runOnly: {type: 'tag', values: arguments[0]}, resultTypes: ['violations']}).then(found =>
  found.violations.filter(rule => ['serious', 'critical'].includes(rule.impact)).flatMap(rule => rule.nodes.map(node =>
    `${rule.id} (${rule.impact}) at ${node.target.join(' ')}: ${node.html.slice(0, 200)}: ${node.failureSummary}`)));";

// Of text in drawings axe says that it cannot tell. It is compared with what is behind the drawing; the canvas is there to read colours,
// however they are written.
const FAINT_CHART_TEXT: &str = "
const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true});
const channels = colour => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
  return [red, green, blue, alpha / 255];
};
const over = (front, back) => [0, 1, 2].map(i => front[i] * front[3] + back[i] * (1 - front[3])).concat(1);
const luminance = colour => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
  const value = colour[i] / 255;
  return sum + weight * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
}, 0);
const behind = element => {
  if (!element) return [255, 255, 255, 1];
  const own = channels(getComputedStyle(element).backgroundColor);
  return own[3] === 1 ? own : over(own, behind(element.parentElement));
};
return [...document.querySelectorAll('svg text')].filter(text => text.checkVisibility()).flatMap(text => {
  const style = getComputedStyle(text);
  const back = behind(text.ownerSVGElement.parentElement);
  const ink = channels(style.fill);
  ink[3] *= style.opacity * style.fillOpacity;
  const [light, dark] = [luminance(over(ink, back)), luminance(back)].sort((a, b) => b - a);
  const ratio = (light + 0.05) / (dark + 0.05);
  return ratio < 4.5 ? [`text in a chart, class ${text.getAttribute('class')}: contrast ${ratio.toFixed(2)}`] : [];
});";

const TOO_WIDE: &str = "
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return [];
const wide = [...document.querySelectorAll('body *')].filter(element =>
  element.getBoundingClientRect().right > width + 1 && !element.closest('.scroll, svg'));
return [`scrolls sideways at ${width} px: `
  + wide.slice(0, 8).map(element => `${element.tagName} ${element.getAttribute('class') || ''}`).join(', ')];";

const FILES_LINKED: &str = "
return [...document.querySelectorAll('a[href]')].map(link => link.href.split('#')[0])
  .filter(place => place !== location.href.split('#')[0]).map(decodeURIComponent);";

const DEAD_ANCHORS: &str = "
return [...document.querySelectorAll('a[href^=\"#\"]')].map(link => link.getAttribute('href').slice(1))
  .filter(id => !document.getElementById(id)).map(id => `no place on the page for the link #${id}`);";

/// Opens the page; wrong are requests of anything else, and whatever the browser complains of.
pub(crate) fn open(browser: &Browser, path: &Path) -> Vec<String> {
    browser.open(path);
    let is_there =
        browser.run("return document.title !== '' && document.querySelector('main h1') !== null", &json!([]));
    let mut wrong = Vec::new();
    if is_there != true {
        wrong.push("the page did not open, or has no title".to_owned());
    }
    let name = path.file_name().unwrap().to_str().unwrap();
    let is_page = |url: &String| url.starts_with("file:///") && url.ends_with(&format!("/{name}"));
    let urls: BTreeSet<String> = browser.log("performance").iter().filter_map(requested).collect();
    assert!(urls.iter().any(is_page), "requests are not logged: {urls:?}");
    wrong.extend(urls.iter().filter(|url| !is_page(url)).map(|url| format!("asks for {url:.200}")));
    for entry in browser.log("browser") {
        if entry["level"] != "INFO" && entry["level"] != "DEBUG" {
            wrong.push(format!("{}: {}", entry["level"], entry["message"]));
        }
    }
    wrong
}

/// What is wider than a window of this width.
pub(crate) fn too_wide(browser: &Browser, width: u32) -> Vec<String> {
    browser.resize(width, 900);
    browser.lines(TOO_WIDE)
}

/// Links that lead nowhere.
pub(crate) fn dead_links(browser: &Browser) -> Vec<String> {
    let mut dead = browser.lines(DEAD_ANCHORS);
    for link in browser.lines(FILES_LINKED) {
        let is_there = link.strip_prefix("file://").is_some_and(|path| Path::new(path).exists());
        if !is_there {
            dead.push(format!("a link leads to {link}"));
        }
    }
    dead
}

/// Sentences that cannot be seen.
pub(crate) fn unseen(browser: &Browser, sentences: &[String]) -> Vec<String> {
    let seen = browser.run("return document.body.innerText", &json!([]));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let seen = words(seen.as_str().unwrap());
    sentences
        .iter()
        .filter(|sentence| !seen.contains(&words(sentence)))
        .map(|s| format!("not to be seen: {s}"))
        .collect()
}

/// Serious and critical violations of WCAG 2.2 AA, in the page as it is now.
pub(crate) fn violations(browser: &Browser, axe: &str) -> Vec<String> {
    browser.run(axe, &json!([]));
    let version = browser.run("return axe.version", &json!([]));
    assert_eq!(version, AXE_VERSION, "tests/browser/fetch_axe.sh fetches the version that is meant");
    let mut found: Vec<String> = serde_json::from_value(browser.run(VIOLATIONS, &json!([CRITERIA]))).unwrap();
    found.extend(browser.lines(FAINT_CHART_TEXT).into_iter().collect::<BTreeSet<_>>());
    found
}

/// The source of axe-core, or a word that it is missing.
pub(crate) fn axe() -> Option<String> {
    let fetched = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("axe").join("axe.min.js");
    let path = env::var_os("PHASETRACE_AXE").map_or_else(fetched, PathBuf::from);
    let source = fs::read_to_string(&path).ok();
    if source.is_none() {
        skip(&format!("no axe-core at {}; tests/browser/fetch_axe.sh fetches it", path.display()));
    }
    source
}

fn requested(entry: &Value) -> Option<String> {
    let entry: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
    let (method, params) = (&entry["message"]["method"], &entry["message"]["params"]);
    match method.as_str()? {
        "Network.requestWillBeSent" => Some(params["request"]["url"].as_str()?.to_owned()),
        "Network.webSocketCreated" => Some(params["url"].as_str()?.to_owned()),
        _ => None,
    }
    .filter(|url| url != "about:blank")
}
