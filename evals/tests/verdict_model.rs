//! The verdict model and its score, on records whose truth is known by construction.

use std::collections::BTreeMap;
use std::path::Path;

use evals::diagnosis::Stage;
use evals::verdict::features::Tier;
use evals::verdict::fit::{fit, predict_held_out, up_to};
use evals::verdict::model::VerdictModel;
use evals::verdict::record::{Candidate, Case, Family, Latent, Record, Set, Status, parse, to_lines};
use evals::verdict::score::{MethodScore, Score, score};
use probes::item::Behaviour;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const STAGES: [Stage; 3] = [Stage::Pretraining, Stage::Tuning, Stage::Alignment];

/// Numbers between 0 and 1 that are a function of the name; three decimals, which read back to the same bits.
fn noise(name: &str) -> f64 {
    let seed = name.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(257).wrapping_add(byte.into()));
    (ChaCha8Rng::seed_from_u64(seed).random::<f64>() * 1e3).round() / 1e3
}

/// An organism with one fault; the evidence is 1 for the guilty stage, 0 for others, plus noise of this size.
fn single(fault: &str, seed: u64, guilty: Stage, error: f64) -> Record {
    let evidence = |stage: Stage| {
        let of = |feature: &str| {
            let drawn = noise(&format!("{fault}/{seed}/{stage:?}/{feature}")) - 0.5;
            (feature.to_owned(), ((f64::from(u8::from(stage == guilty)) + error * drawn) * 1e3).round() / 1e3)
        };
        Candidate { stage, features: BTreeMap::from([of("shortfall_share"), of("margin_change_z")]) }
    };
    let fall = |stage: Stage| if stage >= guilty { 0.5 } else { 0.95 };
    Record {
        name: format!("{fault}/world-8/seed-{seed}"),
        fault: vec![fault.to_owned()],
        family: Family::OverRefusal,
        set: Set::Single,
        world: 8,
        seed,
        shape: "small".to_owned(),
        guilty: vec![guilty],
        masked_by: None,
        took: Some(0.95),
        cases: vec![Case {
            behaviour: Behaviour::OverRefusal,
            status: Status::Failing,
            shortfall: 0.45,
            values: STAGES.map(|stage| (stage, fall(stage))).into(),
            p_values: STAGES.iter().skip(1).map(|&s| (s, if s == guilty { 1e-9 } else { 0.7 })).collect(),
            thesis: Stage::Alignment,
            latent: None,
            candidates: STAGES.map(evidence).into(),
        }],
    }
}

fn clean(seed: u64) -> Record {
    let mut record = single("clean", seed, Stage::Alignment, 0.0);
    record.name = format!("clean/world-8/seed-{seed}");
    (record.fault, record.family, record.set, record.guilty, record.took) =
        (Vec::new(), Family::None, Set::Clean, Vec::new(), None);
    record.cases[0].status = Status::Within;
    record
}

/// Six fault types in each stage, three seeds each, and twenty clean runs.
fn bench(error: f64) -> Vec<Record> {
    let types = STAGES.iter().flat_map(|&stage| (0..6).map(move |n| (format!("{stage:?}_{n}"), stage)));
    let faulty = types.flat_map(|(fault, stage)| (1..4).map(move |seed| single(&fault, seed, stage, error)));
    faulty.chain((1..21).map(clean)).collect()
}

fn method<'a>(score: &'a Score, start: &str) -> &'a MethodScore {
    score.methods.iter().find(|method| method.name.starts_with(start)).unwrap()
}

fn right(score: &Score, start: &str) -> f64 {
    method(score, start).right.as_ref().unwrap().value
}

#[test]
fn evidence_that_knows_is_always_right_and_the_baselines_are_as_right_as_they_can_be() {
    let score = score(&bench(0.0));
    let model = method(&score, "Verdict model, T1");
    for share in [&model.right, &model.coverage, &model.right_where_named, &model.right_when_forced, &model.macro_f1] {
        assert_eq!(share.as_ref().unwrap().value, 1.0, "{model:?}");
    }
    // All types agree: what 18 of 18 independent ones leave open.
    assert!((model.right.as_ref().unwrap().low - 18.0 / (18.0 + 1.96_f64.powi(2))).abs() < 1e-3);
    let accused = model.clean_accused.as_ref().unwrap();
    assert_eq!((accused.value, accused.n), (0.0, 20));
    for (name, value) in
        [("L0", 1.0 / 3.0), ("L1", 1.0), ("L2", 1.0 / 3.0), ("L4", 1.0 / 3.0), ("L5", 2.0 / 3.0), ("L6", 1.0)]
    {
        assert!((right(&score, name) - value).abs() < 1e-9, "{name}: {}", right(&score, name));
    }
    // Without its own fault types a stage is a little rarer, so the majority is never it: held-out means held-out.
    assert_eq!(right(&score, "L3"), 0.0);
    assert_eq!(score.reliability[0].n_stages, 54 * 3);
    assert_eq!(score.reliability[0].aurc, 0.0);
    let text = score.to_markdown();
    assert!(text.contains("| L4 a stage at random | 33 % ("), "{text}");
    assert!(text.contains("74 organisms of 19 fault types: "), "{text}");
    assert!(text.contains("| clean | 20 | 0 |"), "{text}");
}

#[test]
fn evidence_that_is_noise_is_right_by_chance_and_names_next_to_nothing() {
    let mut records = bench(0.0);
    for record in &mut records {
        for candidate in &mut record.cases[0].candidates {
            for (feature, value) in &mut candidate.features {
                *value = noise(&format!("{}/{:?}/{feature}", record.name, candidate.stage));
            }
        }
    }
    let score = score(&records);
    let model = method(&score, "Verdict model, T2");
    assert!(model.coverage.as_ref().unwrap().value < 0.1, "{model:?}");
    let forced = model.right_when_forced.as_ref().unwrap();
    assert!((0.2..0.47).contains(&forced.value), "{forced:?}");
    let reliability = &score.reliability[1];
    assert!(reliability.ece <= reliability.null_ece.1 * 1.5 && reliability.aurc > 0.4, "{reliability:?}");
}

#[test]
fn what_only_one_fault_type_shows_is_not_known_of_it_when_it_is_held_out() {
    let mut records = bench(0.0);
    records.extend((10..30).map(|seed| single("Tuning_0", seed, Stage::Tuning, 0.0)));
    // What others share accuses the innocent in one type, and what it alone has the guilty.
    let misled = |record: &mut Record| {
        for candidate in &mut record.cases[0].candidates {
            let of = |name: &str, stage| (name.to_owned(), f64::from(u8::from(candidate.stage == stage)));
            candidate.features =
                BTreeMap::from([of("shortfall_share", Stage::Pretraining), of("margin_change_z", Stage::Tuning)]);
        }
    };
    for record in &mut records {
        if record.fault == ["Tuning_0"] {
            misled(record);
        } else {
            record.cases[0].candidates.iter_mut().for_each(|of| {
                of.features.remove("margin_change_z");
            });
        }
    }
    // One that shares a fault type shares what is known of it.
    let mut two = single("Tuning_0", 99, Stage::Tuning, 0.0);
    two.fault.push("Alignment_7".to_owned());
    misled(&mut two);
    records.push(two);

    let model = fit(&records);
    let seen = model.at(Tier::T2).unwrap();
    let predictions = predict_held_out(&records, Tier::T2, &up_to(Tier::T2));
    for (record, prediction) in records.iter().zip(&predictions).filter(|(record, _)| !record.fault.is_empty()) {
        let is_misled = record.fault[0] == "Tuning_0";
        let expected = if is_misled { Stage::Pretraining } else { record.guilty[0] };
        assert_eq!(prediction[0].top().unwrap().0, expected, "{}", record.name);
        // A model that has seen the type knows better.
        let top = seen.predict(&record.cases[0].candidates).into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert_eq!(top.0, record.guilty[0], "{}", record.name);
    }
}

#[test]
fn an_innocent_stage_named_for_any_failing_behaviour_is_wrong() {
    let mut records = bench(0.0);
    let mut lesser = records[0].cases[0].clone();
    lesser.behaviour = Behaviour::Knowledge;
    lesser.shortfall = 0.2;
    for candidate in &mut lesser.candidates {
        let is_last = candidate.stage == Stage::Alignment;
        candidate.features.values_mut().for_each(|value| *value = f64::from(u8::from(is_last)));
    }
    records[0].cases.push(lesser);
    let score = score(&records);
    let model = method(&score, "Verdict model, T1");
    assert!((model.right.as_ref().unwrap().value - 53.0 / 54.0).abs() < 1e-9, "{model:?}");
    assert!((model.right_when_forced.as_ref().unwrap().value - 53.0 / 54.0).abs() < 1e-9, "{model:?}");
    assert_eq!(model.coverage.as_ref().unwrap().value, 1.0);
    let wrong: Vec<(&str, &str)> = score.wrong.iter().map(|told| (&*told.name, &*told.verdict)).collect();
    assert_eq!(wrong, [("Pretraining_0/world-8/seed-1", "pretraining + alignment")]);
    assert!(score.to_markdown().contains("| pretraining | pretraining + alignment |"));
}

#[test]
fn plants_that_did_not_take_teach_nothing_and_are_named() {
    let mut records = bench(0.0);
    let before = fit(&records);
    let mut stray = single("Stray", 1, Stage::Tuning, 0.0);
    stray.took = Some(0.2);
    stray.guilty = vec![Stage::Pretraining];
    records.push(stray);
    assert_eq!(fit(&records), before);
    let score = score(&records);
    assert_eq!(score.not_taken, ["Stray/world-8/seed-1"]);
    assert_eq!(right(&score, "Verdict model, T1"), 1.0);
}

#[test]
fn two_faults_are_both_named_and_a_masked_one_with_its_mask() {
    let mut records = bench(0.1);
    let mut two = single("Tuning_9", 1, Stage::Tuning, 0.0);
    (two.set, two.guilty) = (Set::Two, vec![Stage::Tuning, Stage::Alignment]);
    two.fault = vec!["Tuning_9".to_owned(), "Alignment_0".to_owned()];
    two.cases[0].candidates[2].features = two.cases[0].candidates[1].features.clone();
    let mut masked = single("Tuning_8", 1, Stage::Tuning, 0.0);
    (masked.set, masked.masked_by) = (Set::Masked, Some(Stage::Alignment));
    masked.cases[0].status = Status::Latent;
    masked.cases[0].latent = Some(Latent { stage: Stage::Tuning, masked_by: Stage::Alignment });
    let mut unmasked = masked.clone();
    unmasked.name = "Tuning_8/world-8/seed-2".to_owned();
    unmasked.cases[0].latent = Some(Latent { stage: Stage::Tuning, masked_by: Stage::Tuning });
    records.extend([two, masked, unmasked]);
    let score = score(&records);
    let model = method(&score, "Verdict model, T2");
    assert_eq!(model.both_named.as_ref().unwrap().value, 1.0, "{model:?}");
    assert_eq!(method(&score, "L0").both_named.as_ref().unwrap().value, 0.0);
    assert_eq!(method(&score, "L0").one_named.as_ref().unwrap().value, 1.0);
    let latent = &score.latent;
    assert_eq!((latent.named.as_ref().unwrap().value, latent.with_mask.as_ref().unwrap().value), (1.0, 0.5));
    assert_eq!(latent.clean_accused.as_ref().unwrap().value, 0.0);
}

#[test]
fn the_same_weights_serve_all_stages_so_a_renamed_stage_gets_the_same_probability() {
    let records = bench(0.6);
    let fitted = fit(&records);
    let model = VerdictModel::parse(&fitted.to_json(), Path::new("model.json")).unwrap();
    let tier = model.at(Tier::T5).unwrap();
    // Nothing of the tiers above was measured: they have no model of their own.
    assert_eq!((tier.tier, tier.features.len()), (Tier::T2, 2));
    assert_eq!(model.tiers.iter().map(|tier| tier.tier).collect::<Vec<_>>(), [Tier::T1, Tier::T2]);
    let one = tier.predict(&records[0].cases[0].candidates);
    let unwritten = fitted.at(Tier::T5).unwrap().predict(&records[0].cases[0].candidates);
    assert!(one.iter().zip(&unwritten).all(|(a, b)| (a.1 - b.1).abs() < 1e-12));
    let mut renamed = records[0].cases[0].candidates.clone();
    renamed[0].stage = Stage::Alignment;
    renamed[2].stage = Stage::Pretraining;
    let other = tier.predict(&renamed);
    assert!(one.iter().zip(&other).all(|(a, b)| a.1 == b.1));
    // Nothing measured: as likely as an average stage.
    let blank = Candidate { stage: Stage::Tuning, features: BTreeMap::new() };
    let p = tier.predict(&[blank])[0].1;
    assert!((0.02..0.7).contains(&p), "{p}");
}

#[test]
fn records_read_back_and_bad_ones_are_named_with_file_line_and_key() {
    let records = bench(0.3);
    let text = to_lines(&records);
    assert_eq!(parse(&text, Path::new("r.jsonl")).unwrap(), records);
    let fault = |from: &str, to: &str| {
        let text = text.replacen(from, to, 1);
        parse(&format!("\n{text}"), Path::new("r.jsonl")).unwrap_err().to_string()
    };
    let error = fault("\"shortfall_share\"", "\"shortfall_shear\"");
    assert!(
        error.starts_with("r.jsonl:2: cases, OverRefusal: candidates, stage Pretraining: unknown feature `shortfall_shear`; known are "),
        "{error}"
    );
    assert!(fault("\"took\"", "\"tok\"").starts_with("r.jsonl:2: unknown field `tok`"));
    let error = fault("\"pretraining\":0.5", "\"pretraining\":1.5");
    assert!(error.starts_with("r.jsonl:2: cases, OverRefusal: `values` of Pretraining is 1.5"), "{error}");
    let twice = parse(&format!("{text}{text}"), Path::new("r.jsonl")).unwrap_err().to_string();
    assert!(twice.starts_with("r.jsonl:75: `name` Pretraining_0/world-8/seed-1 is there twice"), "{twice}");
    let model = fit(&records).to_json().replacen("\"sd\": ", "\"sd\": -", 1);
    let error = VerdictModel::parse(&model, Path::new("m.json")).unwrap_err().to_string();
    assert!(error.starts_with("m.json is not a verdict model: tier T1: sd of `shortfall_share` = -"), "{error}");
}
