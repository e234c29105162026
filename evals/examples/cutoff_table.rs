//! Prints the tables of `docs/cutoff.md`: how often cutoffs are found on simulated curves, how far off, how well covered.
//!
//! `cargo run --release -p evals --example cutoff_table [CURVES [steps|flat|ramps]]`, all tables from 1,000 curves per cell where not given.

use evals::cutoff::segments::segment;
use evals::cutoff::{Month, find_cutoff, find_step};
use evals::diagnosis::CutoffEstimate;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// First month that is not known in the curves with a step.
const BREAK: u32 = 16;

/// What was published for a cell: share detected, mean absolute error in months of those.
type Published = (f64, Option<f64>);

/// What is printed under a name.
type Table = (&'static str, fn(usize));
/// Shares before and after the break, and what was published by number of questions.
type Row<'a> = (f64, f64, &'a [(usize, Published)]);

fn main() {
    let mut args = std::env::args().skip(1);
    let curves = args.next().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let wanted = args.next();
    let tables: [Table; 3] = [("steps", steps), ("flat", flat), ("ramps", ramps)];
    for (_, table) in tables.into_iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name)) {
        table(curves);
    }
}

fn curve(rng: &mut impl Rng, questions: usize, share: impl Fn(f64) -> f64) -> Vec<Month> {
    (0..24)
        .map(|month| {
            let p = share(f64::from(month));
            let right = (0..questions).filter(|_| rng.random::<f64>() < p).count() as f64;
            Month { month, right, n: questions as f64 }
        })
        .collect()
}

fn mean(values: impl Iterator<Item = f64>) -> String {
    let values: Vec<f64> = values.collect();
    if values.is_empty() {
        "–".to_owned()
    } else {
        format!("{:.2}", values.iter().sum::<f64>() / values.len() as f64)
    }
}

fn share(count: usize, of: usize) -> String {
    if of == 0 { "–".to_owned() } else { format!("{:.3}", count as f64 / of as f64) }
}

/// Detection and error where there is a step, beside what was published and the published rule on the same curves.
fn steps(curves: usize) {
    let some = |detected, error| (detected, Some(error));
    let rows: [Row; 4] = [
        (0.80, 0.03, &[(3, some(1.0, 0.12)), (5, some(1.0, 0.03)), (10, some(1.0, 0.0))]),
        (0.80, 0.25, &[(3, some(0.92, 0.59)), (5, some(0.98, 0.29)), (10, some(1.0, 0.09))]),
        (
            0.50,
            0.25,
            &[
                (3, some(0.13, 2.0)),
                (5, some(0.18, 1.7)),
                (10, some(0.42, 0.71)),
                (20, some(0.86, 0.35)),
                (40, some(1.0, 0.15)),
            ],
        ),
        (0.35, 0.25, &[(3, (0.0, None)), (5, (0.0, None)), (10, (0.02, None)), (20, (0.04, None)), (40, (0.14, None))]),
    ];
    println!(
        "| accuracy | q | published: found / error | its rule again | found | error | error at the published rate | set holds the break |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (before, after, cells) in rows {
        for (questions, (published, published_error)) in cells {
            let mut rng = ChaCha8Rng::seed_from_u64((before * 1000.0 + after * 100.0) as u64 * 100 + *questions as u64);
            let (mut found, mut rule) = (Vec::new(), Vec::new());
            for _ in 0..curves {
                let months = curve(&mut rng, *questions, |t| if t < f64::from(BREAK) { before } else { after });
                // The published rule: a break must gain 3 ln N, N questions.
                rule.extend(segment(&months, 1).and_then(|cut| cut.falls().first().map(|fall| fall.month)));
                found.extend(find_step(&months, &mut rng));
            }
            let error = |month: u32| f64::from(month.abs_diff(BREAK));
            let held = found.iter().filter(|e| (e.low..=e.high).contains(&BREAK)).count();
            found.sort_by(|a, b| a.expected_error.partial_cmp(&b.expected_error).unwrap_or(std::cmp::Ordering::Equal));
            let surest = (published * curves as f64).round() as usize;
            println!(
                "| .{:02.0} → .{:02.0} | {questions} | {published:.2} / {} | {} / {} | {} | {} | {} | {} |",
                before * 100.0,
                after * 100.0,
                published_error.map_or_else(|| "–".to_owned(), |e| format!("{e:.2}")),
                share(rule.len(), curves),
                mean(rule.iter().map(|month| error(*month))),
                share(found.len(), curves),
                mean(found.iter().map(|e| error(e.month))),
                mean(found.iter().take(surest).map(|e| error(e.month))),
                share(held, found.len()),
            );
        }
    }
    println!();
}

/// False alarms: curves without a break, with months that are alike and months that differ.
fn flat(curves: usize) {
    println!("| accuracy | months differ by | q = 3 | 5 | 10 | 20 | 40 |");
    println!("|---|---|---|---|---|---|---|");
    let mut alarms = [(0, 0); 2];
    for (p, spread) in [(0.25, 0.0), (0.5, 0.0), (0.8, 0.0), (0.97, 0.0), (0.5, 0.05), (0.5, 0.1), (0.5, 0.2)] {
        print!("| .{:02.0} | {} |", p * 100.0, if spread == 0.0 { "–".to_owned() } else { format!("± {spread:.2}") });
        for questions in [3, 5, 10, 20, 40] {
            let mut rng = ChaCha8Rng::seed_from_u64((p * 100.0 + spread * 1e4) as u64 * 100 + questions as u64);
            let found = (0..curves)
                .filter(|_| {
                    let shifts: Vec<f64> =
                        (0..24).map(|_| if rng.random::<bool>() { spread } else { -spread }).collect();
                    let months = curve(&mut rng, questions, |t| p + shifts[t as usize]);
                    find_step(&months, &mut rng).is_some()
                })
                .count();
            let kind = usize::from(spread > 0.0);
            alarms[kind] = (alarms[kind].0 + found, alarms[kind].1 + curves);
            print!(" {} |", share(found, curves));
        }
        println!();
    }
    let [(alike, n_alike), (differ, n_differ)] = alarms;
    println!(
        "\nAll: {} of {n_alike} where months are alike, {} of {n_differ} where they differ.\n",
        share(alike, n_alike),
        share(differ, n_differ)
    );
}

/// Which shape is chosen, and how often intervals hold the truth.
fn ramps(curves: usize) {
    println!(
        "| truth | q | found | taken for a ramp | onset held | midpoint held | end held | set of the step: holds the midpoint, months | reported set: holds the midpoint, months |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    type Truth = (&'static str, fn(f64) -> f64, [f64; 3]);
    let logistic = |t: f64| 0.03 + 0.77 / (1.0 + (2.0 * 9.0_f64.ln() * (t - 13.0) / 8.0).exp());
    let truths: [Truth; 5] = [
        ("step .80 → .03", |t| if t < 16.0 { 0.8 } else { 0.03 }, [15.5; 3]),
        ("step .80 → .25", |t| if t < 16.0 { 0.8 } else { 0.25 }, [15.5; 3]),
        ("line of 10 months, .80 → .03", |t| 0.8 - 0.77 * ((t - 8.0) / 10.0).clamp(0.0, 1.0), [9.0, 13.0, 17.0]),
        ("line of 10 months, .80 → .25", |t| 0.8 - 0.55 * ((t - 8.0) / 10.0).clamp(0.0, 1.0), [9.0, 13.0, 17.0]),
        ("logistic, 8 months from 10 % to 90 %, .80 → .03", logistic, [9.0, 13.0, 17.0]),
    ];
    for (name, truth, places) in truths {
        for questions in [5, 10, 20, 40] {
            let mut rng = ChaCha8Rng::seed_from_u64((name.len() * 100 + questions) as u64);
            let (mut found, mut steps) = (Vec::new(), Vec::new());
            for _ in 0..curves {
                let months = curve(&mut rng, questions, truth);
                // The same stream for both, so that both find the same curves.
                steps.extend(find_step(&months, &mut rng.clone()));
                found.extend(find_cutoff(&months, &mut rng));
            }
            let ramps: Vec<_> = found.iter().filter_map(|e| e.ramp.as_ref()).collect();
            let held = |place: usize| {
                let count = ramps.iter().filter(|ramp| {
                    let e = [&ramp.onset, &ramp.midpoint, &ramp.end][place];
                    e.low <= places[place] && places[place] <= e.high
                });
                share(count.count(), ramps.len())
            };
            let middle = places[1].round() as u32;
            let set = |estimates: &[CutoffEstimate]| {
                let held = estimates.iter().filter(|e| (e.low..=e.high).contains(&middle)).count();
                let months = mean(estimates.iter().map(|e| f64::from(e.high - e.low + 1)));
                format!("{}, {months}", share(held, estimates.len()))
            };
            println!(
                "| {name} | {questions} | {} | {} | {} | {} | {} | {} | {} |",
                share(found.len(), curves),
                share(ramps.len(), found.len()),
                held(0),
                held(1),
                held(2),
                set(&steps),
                set(&found),
            );
        }
    }
}
