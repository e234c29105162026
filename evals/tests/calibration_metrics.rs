//! Calibration metrics equal those of netcal, relplot and scikit-learn within 1e-9 on fixed inputs; `tests/peers/calibration_metrics.py`
//! writes the numbers.

use evals::stats::auroc::auroc;
use evals::stats::bins::{Binning, Closed, mce};
use evals::stats::calibration::{Bin, Forecast, brier, ece};
use evals::stats::debiased::{Debiased, ferro_fricker};
use evals::stats::murphy::Murphy;
use evals::stats::selective::{aurc, excess_aurc};
use evals::stats::smooth_ece::smooth_ece;
use evals::stats::temperature::{Scores, fit};
use serde_json::Value;

const TOLERANCE: f64 = 1e-9;

fn fixture() -> Value {
    serde_json::from_str(include_str!("data/calibration_metrics.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn forecasts(set: &Value) -> Vec<Forecast> {
    let pairs = numbers(&set["confidence"]).into_iter().zip(numbers(&set["outcome"]));
    pairs.map(|(confidence, outcome)| Forecast { confidence, outcome }).collect()
}

/// Every set, by name.
fn sets(check: impl Fn(&str, &Value, &[Forecast])) {
    let fixture = fixture();
    let sets = fixture["sets"].as_array().unwrap();
    assert!(sets.len() >= 13);
    for set in sets {
        check(set["name"].as_str().unwrap(), set, &forecasts(set));
    }
}

fn agree(name: &str, key: &str, got: Option<f64>, expected: &Value) {
    let close = match (got, expected.as_f64()) {
        (Some(got), Some(expected)) => (got - expected).abs() <= TOLERANCE,
        (None, None) => true,
        _ => false,
    };
    assert!(close, "{name}: {key} is {got:?}, expected {expected}");
}

/// Bins as numpy has them, with netcal's or scikit-learn's closed end.
fn numpy_bins(forecasts: &[Forecast], edges: &Value, closed: Closed) -> Vec<Bin> {
    Binning::at_edges(forecasts, &numbers(edges), closed).sums(forecasts)
}

#[test]
fn errors_in_bins_equal_netcal_s_at_its_edges() {
    let edges = &fixture()["width_edges"];
    sets(|name, set, f| {
        for n_bins in ["10", "15"] {
            let bins = numpy_bins(f, &edges[n_bins], Closed::Lower);
            let key = format!("netcal_ece_width_{n_bins}");
            agree(name, &key, ece(&bins), &set[&key]);
            let bins = numpy_bins(f, &set[&format!("mass_edges_{n_bins}")], Closed::Lower);
            let key = format!("netcal_ece_mass_{n_bins}");
            if !set[&key].is_null() {
                agree(name, &key, ece(&bins), &set[&key]);
            }
        }
        agree(name, "mce", mce(&numpy_bins(f, &edges["10"], Closed::Lower)), &set["netcal_mce_width_10"]);
    });
}

#[test]
fn our_own_bins_equal_netcal_s_where_no_confidence_lies_on_an_edge() {
    let mut compared = 0;
    for set in fixture()["sets"].as_array().unwrap() {
        let (name, f) = (set["name"].as_str().unwrap(), forecasts(set));
        // Tenths lie on numpy's edges or a last bit beside them, where netcal puts 0.3 below and 0.4 above.
        if f.iter().any(|f| (f.confidence * 10.0).fract() == 0.0 && f.confidence % 1.0 != 0.0) {
            continue;
        }
        compared += 1;
        for n_bins in [10, 15] {
            let key = format!("netcal_ece_width_{n_bins}");
            agree(name, &key, ece(&Binning::equal_width(&f, n_bins).sums(&f)), &set[&key]);
            let key = format!("netcal_ece_mass_{n_bins}");
            if !set[&key].is_null() {
                agree(name, &key, ece(&Binning::quantiles(&f, n_bins).sums(&f)), &set[&key]);
            }
        }
        agree(name, "mce", mce(&Binning::equal_width(&f, 10).sums(&f)), &set["netcal_mce_width_10"]);
    }
    assert!(compared >= 9, "{compared}");
}

#[test]
fn reliability_diagrams_equal_scikit_learn_s_at_its_closed_end() {
    let edges = &fixture()["width_edges"]["10"];
    sets(|name, set, f| {
        for (key, edges) in [("sklearn_curve_width_10", edges), ("sklearn_curve_mass_10", &set["mass_edges_10"])] {
            let bins = numpy_bins(f, edges, Closed::Upper);
            let got: Vec<Bin> = bins.into_iter().filter(|bin| bin.n > 0.0).collect();
            let expected: Vec<Vec<f64>> = set[key].as_array().unwrap().iter().map(numbers).collect();
            assert_eq!(got.len(), expected.len(), "{name}: {key}");
            for (bin, point) in got.iter().zip(&expected) {
                assert!(
                    (bin.confidence / bin.n - point[0]).abs() <= TOLERANCE,
                    "{name}: {key}, {bin:?} is not {point:?}"
                );
                assert!((bin.outcome / bin.n - point[1]).abs() <= TOLERANCE, "{name}: {key}, {bin:?} is not {point:?}");
            }
        }
    });
}

#[test]
fn brier_and_auroc_equal_scikit_learn_s() {
    sets(|name, set, f| {
        agree(name, "brier", brier(f), &set["sklearn_brier"]);
        let (confidence, right): (Vec<f64>, Vec<bool>) = f.iter().map(|f| (f.confidence, f.outcome > 0.5)).unzip();
        agree(name, "auroc", auroc(&confidence, &right), &set["sklearn_auroc"]);
    });
}

#[test]
fn smooth_errors_equal_relplot_s_with_the_same_kernel() {
    sets(|name, set, f| {
        let got = smooth_ece(f).unwrap();
        agree(name, "smooth", Some(got.value), &set["relplot_smece"]);
        agree(name, "width", Some(got.width), &set["relplot_width"]);
    });
}

#[test]
fn what_no_package_has_equals_its_definition_in_numpy() {
    let edges = &fixture()["width_edges"]["10"];
    sets(|name, set, f| {
        let answers: Vec<(f64, bool)> = f.iter().map(|f| (f.confidence, f.outcome > 0.5)).collect();
        agree(name, "aurc", aurc(&answers), &set["aurc"]);
        agree(name, "excess", excess_aurc(&answers), &set["excess_aurc"]);
        let got = Murphy::new(f, &Binning::at_edges(f, &numbers(edges), Closed::Lower)).unwrap();
        let parts = serde_json::to_value(got).unwrap();
        for key in ["reliability", "resolution", "uncertainty", "within_variance", "within_covariance"] {
            agree(name, key, parts[key].as_f64(), &set["murphy_width_10"][key]);
        }
        agree(name, "sum of parts", Some(got.brier()), &set["sklearn_brier"]);

        let binning = Binning::at_edges(f, &numbers(&set["mass_edges_10"]), Closed::Lower);
        let single: Vec<usize> = (0..f.len()).collect();
        let debiased = Debiased::new(f, &single, &binning).unwrap();
        agree(name, "debiased", Some(debiased.value), &set["debiased_squared"]);
        let n = f.len() as f64;
        let variance = debiased.se.powi(2) * if n > 1.0 { n - 1.0 } else { 1.0 };
        agree(name, "its variance", Some(variance), &set["debiased_variance"]);
        agree(name, "Ferro-Fricker", ferro_fricker(f, &binning), &set["ferro_fricker"]);
    });
}

#[test]
fn temperatures_equal_those_of_a_root_finder_on_the_slope() {
    let inside =
        |scores: &[Scores]| fit(scores, |_| 1.0).filter(|found| !found.is_at_bound).map(|found| found.temperature);
    sets(|name, set, f| {
        let scores: Vec<Scores> = f.iter().map(|f| Scores::binary(*f)).collect();
        agree(name, "temperature", inside(&scores), &set["binary_temperature"]);
    });
    for choice in fixture()["choices"].as_array().unwrap() {
        let right = choice["right"].as_array().unwrap().iter().map(|right| right.as_u64().unwrap() as usize);
        let items = choice["scores"].as_array().unwrap().iter().zip(right);
        let scores: Vec<Scores> =
            items.map(|(scores, right)| Scores::closed_set(&numbers(scores), right).unwrap()).collect();
        agree(&format!("{} choices", scores.len()), "temperature", inside(&scores), &choice["temperature"]);
    }
}
