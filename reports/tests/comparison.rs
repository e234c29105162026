//! What the report of a comparison promises its reader, whatever the comparison holds.

use evals::comparison::{Axis, Comparison, SettingKind};
use reports::{Error, render_comparison_html, render_comparison_json, render_comparison_markdown};

use promise::HOSTILE;

mod promise;
mod sweep;

#[test]
fn hostile_text_is_shown_and_never_run() {
    let hostile = HOSTILE;
    let mut comparison = sweep::of(6);
    for name in names(&mut comparison) {
        *name = format!("{hostile}{name}");
    }
    for text in texts(&mut comparison) {
        *text = hostile.to_owned();
    }
    comparison.provenance.notes.insert(hostile.to_owned(), hostile.to_owned());
    for setting in &mut comparison.settings {
        setting.values.insert(hostile.to_owned(), hostile.to_owned());
        for estimate in setting.axes.values_mut() {
            estimate.method = hostile.to_owned();
        }
    }
    let page = render_comparison_html(&comparison).unwrap();
    promise::shows_hostile_text(&page, 0);
    let summary = render_comparison_markdown(&comparison).unwrap();
    assert!(!summary.contains("<script") && !summary.contains("<img"), "{summary}");
}

#[test]
fn a_page_needs_no_network_and_no_script() {
    for comparison in [sweep::of(16), sweep::of(1), sweep::empty()] {
        let page = render_comparison_html(&comparison).unwrap();
        promise::is_self_contained(&page, 0);
    }
}

#[test]
fn every_chart_has_its_title_its_description_and_its_table() {
    let comparison = sweep::of(16);
    let page = render_comparison_html(&comparison).unwrap();
    let charts: Vec<&str> = page.split("<svg class=\"chart\"").skip(1).collect();
    // Four planes, one of them with an overview, and one curve for each of the twelve settings that have a reward.
    assert_eq!(charts.len(), 4 + 1 + 12);
    for chart in charts {
        let (drawing, after) = chart.split_once("</svg>").unwrap();
        assert!(drawing.contains("<title id=") && drawing.contains("<desc id="));
        let table = after.split_once("<table>").unwrap().1.split_once("</table>").unwrap().0;
        assert!(table.matches("<tr>").count() > 1, "{table}");
        assert!(!after.split_once("<table>").unwrap().0.contains("</figure>"), "the table belongs to another chart");
    }
}

#[test]
fn a_start_far_off_is_drawn_beside_a_close_up_of_the_trained_settings() {
    let mut comparison = sweep::of(16);
    let page = render_comparison_html(&comparison).unwrap();
    assert!(page.contains("harmful requests answered, close up</h4>"));
    assert!(page.contains("Outside this close-up: start, at 1.2% and 94.6%."));
    assert!(page.contains("harmful requests answered, with the start</h4>"));
    comparison.settings.retain(|setting| setting.kind == SettingKind::Trained);
    let page = render_comparison_html(&comparison).unwrap();
    assert!(!page.contains("close up") && !page.contains("with the start</h4>"));
}

#[test]
fn a_page_of_sixteen_settings_is_small_enough_to_send() {
    let page = render_comparison_html(&sweep::of(16)).unwrap();
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
}

#[test]
fn a_page_holds_everything_a_reader_was_promised() {
    let comparison = sweep::of(16);
    let page = render_comparison_html(&comparison).unwrap();
    let parts =
        ["plane-part", "settings", "planes", "choices", "effects", "differences", "training", "over-optimisation"];
    for id in parts.into_iter().chain(["alarms", "trust", "principles", "run"]) {
        assert!(page.contains(&format!("id=\"{id}\"")), "{id}");
    }
    let told = comparison.sentences.iter().chain(comparison.principles.iter().flat_map(|table| &table.sentences));
    for text in told.chain(comparison.settings.iter().map(|setting| &setting.name)) {
        assert!(page.contains(text.as_str()), "{text}");
    }
    assert_eq!(page.matches("id=\"against-").count(), 17, "one block for each trained setting and the start");
    assert!(page.contains("not dominated") && page.contains("dominated by 2, 5, 6"));
}

#[test]
fn a_comparison_of_nothing_still_says_so() {
    let page = render_comparison_html(&sweep::empty()).unwrap();
    for text in ["No setting was trained.", "so there is nothing to draw", "No trained setting is on record."] {
        assert!(page.contains(text), "{text}");
    }
    render_comparison_markdown(&sweep::empty()).unwrap();
}

#[test]
fn an_axis_that_was_not_measured_is_named_as_such() {
    let mut comparison = sweep::of(3);
    for setting in &mut comparison.settings {
        for axis in [Axis::HarmfulCompliance, Axis::Calibration] {
            setting.axes.remove(&axis);
            setting.by_seed.remove(&axis);
        }
    }
    for pair in &mut comparison.pairs {
        pair.differences.remove(&Axis::HarmfulCompliance);
    }
    for effect in &mut comparison.effects {
        effect.changes.clear();
    }
    comparison.settings[1].axes.clear();
    let page = render_comparison_html(&comparison).unwrap();
    assert!(page.contains("so there is nothing to draw"));
    assert!(page.contains("<span class=\"none\">not measured</span>"));
    assert!(page.contains("Not shown, because one of the two was not measured: 1 "));
    assert!(page.contains("No axis was measured on both sides."));
}

#[test]
fn numbers_that_are_not_finite_do_not_reach_a_drawing() {
    let mut comparison = sweep::of(3);
    for setting in &mut comparison.settings {
        for estimate in setting.axes.values_mut() {
            (estimate.low, estimate.high) = (f64::NAN, f64::INFINITY);
        }
        if let Some(seeds) = setting.by_seed.get_mut(&Axis::Kl) {
            seeds.fill(f64::NAN);
        }
    }
    comparison.settings[1].axes.get_mut(&Axis::OverRefusal).unwrap().value = f64::NAN;
    comparison.over_optimisation[0].points[3].kl_nats = f64::NAN;
    comparison.over_optimisation[0].points[4].proxy = f64::INFINITY;
    let page = render_comparison_html(&comparison).unwrap();
    assert!(page.contains("no interval"));
    assert!(!page.contains("NaN") && !page.contains("inf\"") && !page.contains("inf<"));
    assert!(matches!(render_comparison_json(&comparison), Err(Error::Json(_))));
}

#[test]
fn what_is_not_told_apart_is_never_called_equal() {
    let mut comparison = sweep::of(2);
    for difference in comparison.pairs.iter_mut().flat_map(|pair| pair.differences.values_mut()) {
        (difference.p_holm, difference.n_needed, difference.seeds_needed) = (Some(0.4), Some(1_200), Some(9));
    }
    let page = render_comparison_html(&comparison).unwrap();
    assert!(page.contains("0 of 3 pairs"));
    assert!(page.contains("≈ not resolved") && page.contains("1,200 items per seed, or 9 seeds"));
    assert!(!page.contains("no change") && !page.contains("told apart</td>"));
}

#[test]
fn explored_settings_are_neither_numbered_nor_compared() {
    let comparison = sweep::of(3);
    let n = comparison.settings.iter().filter(|s| matches!(s.kind, SettingKind::Explored { .. })).count();
    let page = render_comparison_html(&comparison).unwrap();
    assert!(page.contains(&format!("<summary>{n} explored without training</summary>")));
    let overview = page.split("<figure").find(|part| part.contains("id=\"plane-whole-title\"")).unwrap();
    assert_eq!(overview.matches("class=\"mark explored\"").count(), n + 2, "each once, and twice in the legend below");
    assert_eq!(page.matches("id=\"against-").count(), 4);
}

#[test]
fn the_same_comparison_gives_the_same_bytes() {
    assert!(render_comparison_html(&sweep::of(16)).unwrap() == render_comparison_html(&sweep::of(16)).unwrap());
}

#[test]
fn json_reads_back_as_the_same_record() {
    let written = sweep::of(4);
    let read: Comparison = serde_json::from_str(&render_comparison_json(&written).unwrap()).unwrap();
    assert_eq!(read.settings.len(), written.settings.len());
    assert_eq!(read.choices, written.choices);
    assert_eq!(read.alarms, written.alarms);
    for (read, written) in read.pairs.iter().zip(&written.pairs) {
        for (axis, written) in &written.differences {
            let read = &read.differences[axis];
            assert!(
                (read.change.value - written.change.value).abs() <= 2.0 * f64::EPSILON * written.change.value.abs()
            );
            assert_eq!(read.seeds_needed, written.seeds_needed);
        }
    }
}

#[test]
fn a_comparison_of_another_version_is_refused() {
    let mut comparison = sweep::of(1);
    comparison.version += 1;
    let error = render_comparison_html(&comparison).unwrap_err();
    assert_eq!(error.to_string(), "comparison has format version 2, this program reads version 1");
}

#[test]
fn the_summary_for_a_pull_request_reads_as_written() {
    insta::assert_snapshot!(render_comparison_markdown(&sweep::of(3)).unwrap());
}

// Wherever a setting is named.
fn names(comparison: &mut Comparison) -> Vec<&mut String> {
    let mut names = vec![&mut comparison.name];
    for setting in &mut comparison.settings {
        names.push(&mut setting.name);
        names.extend(&mut setting.dominated_by);
        if let SettingKind::Explored { base, stands_for, .. } = &mut setting.kind {
            names.push(base);
            names.extend(stands_for);
        }
    }
    names.extend(comparison.pairs.iter_mut().flat_map(|pair| [&mut pair.first, &mut pair.second]));
    for choice in &mut comparison.choices {
        names.push(&mut choice.setting);
        names.extend(&mut choice.ties);
    }
    names.extend(comparison.principles.iter_mut().flat_map(|table| &mut table.settings));
    names.extend(comparison.over_optimisation.iter_mut().map(|entry| &mut entry.setting));
    names.extend(comparison.alarms.iter_mut().map(|alarm| &mut alarm.setting));
    names
}

fn texts(comparison: &mut Comparison) -> Vec<&mut String> {
    let mut texts: Vec<&mut String> = comparison.sentences.iter_mut().collect();
    for table in &mut comparison.principles {
        texts
            .extend(table.sentences.iter_mut().chain(table.principles.iter_mut().map(|principle| &mut principle.name)));
    }
    for effect in &mut comparison.effects {
        texts.extend([&mut effect.key, &mut effect.from, &mut effect.to, &mut effect.sentence]);
    }
    texts.extend(comparison.choices.iter_mut().flat_map(|choice| [&mut choice.care, &mut choice.reason]));
    texts.extend(comparison.trust.iter_mut().map(|trust| &mut trust.sentence));
    texts.extend(comparison.over_optimisation.iter_mut().map(|entry| &mut entry.sentence));
    texts.extend(comparison.alarms.iter_mut().map(|alarm| &mut alarm.message));
    texts
}
