//! The pages in a browser, as their readers open them: from disk, without a network, wide and narrow, light and dark.
//!
//! Where there is no chromedriver, or no axe-core, the tests say so and end; `tests/browser/README.md` says how to get them.

mod checks;
mod driver;
mod pages;
mod pictures;

use std::env;
use std::path::Path;

use serde_json::json;

use checks::UNFOLD;
use driver::{Browser, skip};
use pages::{hostile_pages, pages};

const WIDTHS: [u32; 3] = [390, 1280, 2560];

#[test]
fn pages_open_from_disk_without_a_network_an_error_or_a_sideways_scroll() {
    let Some(browser) = Browser::start() else { return };
    let mut wrong = Vec::new();
    let hostile = hostile_pages();
    for page in pages().iter().chain(&hostile) {
        let mut found = checks::open(&browser, &page.path);
        found.extend(checks::dead_links(&browser));
        found.extend(checks::unseen(&browser, &page.says));
        found.extend(WIDTHS.iter().flat_map(|width| checks::too_wide(&browser, *width)));
        browser.run(UNFOLD, &json!([]));
        found.extend(WIDTHS.iter().flat_map(|width| checks::too_wide(&browser, *width)));
        if browser.run("return document.title", &json!([])) == "run" {
            found.push("a text was run".to_owned());
        }
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", page.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn axe_finds_nothing_serious_in_light_or_in_dark() {
    let (Some(browser), Some(axe)) = (Browser::start(), checks::axe()) else { return };
    let mut wrong = Vec::new();
    for page in pages() {
        browser.open(&page.path);
        browser.run(UNFOLD, &json!([]));
        // Colours do not depend on the width, nor the layout on the colours.
        for (scheme, width) in [("light", 1280), ("dark", 390)] {
            browser.prefer(scheme);
            browser.resize(width, 900);
            let found = checks::violations(&browser, &axe);
            wrong.extend(found.into_iter().map(|what| format!("{}, {scheme}, {width} px: {what}", page.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_page_says_is_read_without_script() {
    let Some(browser) = Browser::start() else { return };
    let mut wrong = Vec::new();
    for page in pages() {
        browser.open(&page.path);
        let headline = browser.run("return document.querySelector('h1').innerText", &json!([]));
        browser.command("Emulation.setScriptExecutionDisabled", &json!({"value": true}));
        browser.open(&page.path);
        let mut says = page.says.clone();
        says.push(headline.as_str().unwrap().to_owned());
        let found = checks::unseen(&browser, &says);
        browser.command("Emulation.setScriptExecutionDisabled", &json!({"value": false}));
        wrong.extend(found.into_iter().map(|what| format!("{}: {what}", page.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_search_hides_the_failures_that_do_not_match() {
    const BOX: &str = "[data-failures] input[type=search]";
    const SHOWN: &str = "
return [...document.querySelector('[data-failures]').querySelectorAll('.case')].filter(item => item.checkVisibility())
  .map(item => item.textContent.toLowerCase());";
    let Some(browser) = Browser::start() else { return };
    browser.open(&pages().iter().find(|page| page.name == "failing").unwrap().path);
    browser.run(UNFOLD, &json!([]));
    let before = browser.lines(SHOWN);
    let question = browser.run("return document.querySelector('[data-failures] .case dd').textContent", &json!([]));
    let question = question.as_str().unwrap();
    browser.type_into(BOX, question);
    let after = browser.lines(SHOWN);
    assert!(!after.is_empty() && after.len() < before.len(), "{question}: {} of {}", after.len(), before.len());
    let has_all = |item: &String| question.to_lowercase().split_whitespace().all(|word| item.contains(word));
    assert!(after.iter().all(has_all), "{question}: {after:?}");
    assert_eq!(before.iter().filter(|item| has_all(item)).count(), after.len(), "what matches is shown");
    browser.type_into(BOX, " no failure says this");
    assert_eq!(browser.lines(SHOWN), Vec::<String>::new());
}

#[test]
fn first_paint() {
    const PAINTED: &str = "
return new Promise(done => {
  new PerformanceObserver(list => list.getEntriesByName('first-contentful-paint').forEach(entry => done(entry.startTime)))
    .observe({type: 'paint', buffered: true});
});";
    let Some(page) = env::var_os("PHASETRACE_PAGE") else {
        skip("PHASETRACE_PAGE names no page");
        return;
    };
    let Some(browser) = Browser::start() else { return };
    let paint = |_: i32| {
        browser.open(Path::new(&page));
        browser.run(PAINTED, &json!([])).as_f64().unwrap()
    };
    let mut times_ms: Vec<f64> = (0..5).map(paint).collect();
    times_ms.sort_by(f64::total_cmp);
    println!("first contentful paint, ms after the navigation: {times_ms:.0?}, median {:.0}", times_ms[2]);
}

#[test]
fn pictures_to_look_at() {
    let Some(folder) = env::var_os("PHASETRACE_SHOTS") else {
        skip("PHASETRACE_SHOTS names no folder");
        return;
    };
    let Some(browser) = Browser::start() else { return };
    for page in pages() {
        pictures::take(&browser, page, Path::new(&folder));
    }
}
