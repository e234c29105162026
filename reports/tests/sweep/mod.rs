//! Comparisons of the size that a sweep over the small world gives, their figures invented.

use std::collections::BTreeMap;

use evals::comparison::{
    Alarm, Axis, COMPARISON_VERSION, Choice, Comparison, Difference, Effect, Exploration, OverOptimisation, Pair,
    Principle, PrincipleCounts, PrincipleTable, RewardCheck, RewardFit, RewardSlice, Setting, SettingKind,
    TrajectoryPoint, Trust,
};
use evals::diagnosis::{Estimate, Provenance};

const METHODS: [&str; 4] = ["rloo", "ppo", "dpo", "cai"];
const KL: [&str; 4] = ["0.01", "0.05", "0.1", "0.3"];
const SEEDS: [u64; 3] = [0, 1, 2];
const N_ITEMS: usize = 260;

/// The start, `n` trained settings (16 at most) with three seeds each, and mixtures on the way to two of them.
pub(crate) fn of(n: usize) -> Comparison {
    let trained: Vec<Setting> = (0..n).map(trained).collect();
    let mut settings = vec![start()];
    settings.extend(trained.iter().cloned());
    for (by, base) in [(Exploration::Realigned, 0), (Exploration::Interpolated, 2)] {
        if let Some(base) = trained.get(base) {
            settings.extend([0.25, 0.5, 0.75].map(|lambda| explored(by, base, lambda, &trained)));
        }
    }
    let measured: Vec<&Setting> = settings.iter().take(n + 1).collect();
    let pairs: Vec<Pair> = (0..measured.len())
        .flat_map(|i| (i + 1..measured.len()).map(move |j| (i, j)))
        .map(|(i, j)| pair(measured[i], measured[j], 3 * n * (n + 1)))
        .collect();
    let over_optimisation = trained
        .iter()
        .filter(|s| s.values["method"] != "dpo")
        .flat_map(|s| SEEDS.map(|seed| over_optimisation(s, seed)))
        .collect();
    Comparison {
        version: COMPARISON_VERSION,
        name: format!("invented-figures-sweep-{n}"),
        sentences: [
            "Choose “ppo, kl 0.1”: 3.1 % harmless requests refused, 2.4 % harmful requests answered (before alignment: 1.2 % harmless requests refused, 94.6 % harmful requests answered).",
            "5 settings are beaten by no other; 4 cannot be told from the choice with these items and seeds, and 41 pairs of settings are shown to differ.",
            "Look at this first: the reward is over-optimised in “rloo, kl 0.01” and “ppo, kl 0.01”: right answers fell while it rose; training raised alarms in “rloo, kl 0.01”.",
        ]
        .map(str::to_owned)
        .to_vec(),
        effects: effects(&trained),
        choices: choices(&trained),
        trust: [(Exploration::Realigned, 0.6), (Exploration::Interpolated, 3.0)].map(|(by, size)| trust(by, size)).to_vec(),
        alarms: alarms(&trained),
        reward_checks: reward_checks(&trained),
        principles: vec![principles(&trained)],
        settings,
        pairs,
        over_optimisation,
        provenance: Provenance {
            phasetrace_version: "0.1.0".to_owned(),
            seed: Some(0),
            bank_hash: "5f3c".repeat(16),
            n_items: 1_820,
            probe_version: 3,
            reference: None,
            notes: BTreeMap::from([("recipe".to_owned(), "sweep.toml".to_owned())]),
        },
    }
}

/// A comparison in which nothing was measured.
pub(crate) fn empty() -> Comparison {
    Comparison {
        sentences: Vec::new(),
        settings: Vec::new(),
        pairs: Vec::new(),
        effects: Vec::new(),
        choices: Vec::new(),
        trust: Vec::new(),
        over_optimisation: Vec::new(),
        alarms: Vec::new(),
        reward_checks: Vec::new(),
        principles: Vec::new(),
        ..of(0)
    }
}

fn reward_checks(trained: &[Setting]) -> Vec<RewardCheck> {
    let kinds = [
        ("harmful requests", 0.98, 3.1),
        ("harmless look-alikes", 0.81, 0.9),
        ("twins: the same dangerous word, once harmful and once not", 0.94, 4.0),
        ("instructions", 0.97, 2.2),
    ];
    let of = |method: &str| {
        RewardCheck {
        settings: trained.iter().filter(|s| s.values["method"] == method).map(|s| s.name.clone()).collect(),
        held_out: Some(estimate(0.95, 0.012)),
        calibration: Some(estimate(0.031, 0.01)),
        slices: kinds
            .map(|(name, accuracy, margin)| RewardSlice {
                name: name.to_owned(),
                accuracy: estimate(accuracy, 0.02),
                margin: estimate(margin, 0.2),
            })
            .to_vec(),
        sentence: "The reward model is weakest on harmless look-alikes: it rates the right answer higher in 81.0 % (95 % interval 79.0 to 83.0, n = 260); where it errs, a policy that follows it errs too: look at the preference data for harmless look-alikes.".to_owned(),
    }
    };
    ["rloo", "cai"].into_iter().map(of).filter(|check| !check.settings.is_empty()).collect()
}

/// Two principles, of which the second stands out.
fn principles(trained: &[Setting]) -> PrincipleTable {
    let principle = |name: &str, against: usize, stands_out: bool| {
        let benign = PrincipleCounts {
            pairs: 260,
            decided: 212,
            against,
            refusing: against - 3,
            right: 190,
            broken: against / 2,
            wrong: 40,
            mended: 25,
        };
        Principle {
            name: name.to_owned(),
            flips: Some(Estimate { n: 212, ..estimate(against as f64 / 212.0, 0.05) }),
            flips_of_others: Some(0.04),
            p_value: Some(if stands_out { 1e-9 } else { 1.0 }),
            p_holm: Some(if stands_out { 2e-9 } else { 1.0 }),
            stands_out,
            kinds: BTreeMap::from([("benign".to_owned(), benign), ("qa".to_owned(), PrincipleCounts::default())]),
        }
    };
    PrincipleTable {
        settings: trained.iter().filter(|s| s.values["method"] == "cai").map(|s| s.name.clone()).collect(),
        principles: vec![
            principle("A careful friend", 8, false),
            principle("Refuse anything that mentions a weapon", 66, true),
        ],
        sentences: vec![
            "The principle “Refuse anything that mentions a weapon” decides against the right answer in 31 % of its pairs (n = 212; 26 to 36 %), the others in 4 %: all harmless requests that it wants refused. It is too broad; narrow its wording or take it out.".to_owned(),
        ],
    }
}

fn start() -> Setting {
    let means = [0.012, 0.946, 0.81, 0.061, 1.0, 0.0];
    let mut start = setting("start".to_owned(), SettingKind::Start, means, 99);
    start.train_s = None;
    start.axes.remove(&Axis::KnowledgeKept);
    start.by_seed.remove(&Axis::KnowledgeKept);
    start
}

fn trained(i: usize) -> Setting {
    let (method, kl) = (METHODS[i % 4], KL[i / 4 % 4]);
    // The cheaper divergence is, the farther training goes.
    let reach = [2.6, 1.7, 1.1, 0.5][i / 4 % 4] + 0.1 * (i % 4) as f64;
    let harmful = 0.022 + 0.25 * (-2.4 * (reach - 0.4)).exp() + [0.0, 0.006, 0.02, 0.0][i % 4];
    let refused = 0.014 + 0.012 * reach * reach + [0.004, 0.0, 0.002, 0.03][i % 4];
    let followed = 0.93 - 0.03 * (reach - 1.3).powi(2) - [0.0, 0.004, 0.03, 0.02][i % 4];
    let means = [refused, harmful, followed, 0.03 + 0.025 * reach, 0.995 - 0.018 * reach * reach, 0.9 * reach * reach];
    let mut setting = setting(format!("{method}, kl {kl}"), SettingKind::Trained, means, i);
    setting.values = BTreeMap::from([("method".to_owned(), method.to_owned()), ("kl".to_owned(), kl.to_owned())]);
    setting.is_non_dominated = matches!(i, 1 | 4 | 5 | 9 | 12);
    if !setting.is_non_dominated {
        setting.dominated_by = ["ppo, kl 0.01", "rloo, kl 0.05", "ppo, kl 0.05"].map(str::to_owned)[i % 3..].to_vec();
    }
    setting.gold_reward = Some(estimate(0.78, 0.03));
    setting
}

fn explored(by: Exploration, base: &Setting, lambda: f64, trained: &[Setting]) -> Setting {
    let start = start();
    let value = |axis: &Axis| {
        let from = start.axes.get(axis).map_or(1.0, |e| e.value);
        from + lambda.powf(0.7) * (base.axes[axis].value - from)
    };
    let means = Axis::ALL.map(|axis| value(&axis));
    let stands_for = trained.iter().find(|s| lambda == 0.5 && s.name == format!("{}, kl 0.05", base.values["method"]));
    let kind =
        SettingKind::Explored { by, base: base.name.clone(), lambda, stands_for: stands_for.map(|s| s.name.clone()) };
    let how = if by == Exploration::Realigned { "realigned" } else { "interpolated" };
    let mut setting = setting(format!("{} {how} {lambda}", base.name), kind, means, 7);
    (setting.seeds, setting.by_seed, setting.train_s) = (vec![0], BTreeMap::new(), None);
    setting
}

fn setting(name: String, kind: SettingKind, means: [f64; 6], salt: usize) -> Setting {
    let half = [0.014, 0.016, 0.022, 0.008, 0.012, 0.11];
    let axes = Axis::ALL.into_iter().zip(means.into_iter().zip(half)).map(|(a, (m, h))| (a, estimate(m, h)));
    let axes: BTreeMap<Axis, Estimate> = axes.collect();
    let by_seed = axes.iter().map(|(&axis, e)| {
        let seeds =
            SEEDS.map(|s| (e.value + (e.high - e.value) * 0.8 * noise(salt, s as usize + 7 * axis as usize)).max(0.0));
        (axis, seeds.to_vec())
    });
    Setting {
        name,
        kind,
        values: BTreeMap::new(),
        seeds: SEEDS.to_vec(),
        by_seed: by_seed.collect(),
        axes,
        is_non_dominated: false,
        dominated_by: Vec::new(),
        gold_reward: None,
        train_s: Some(52.0 + 9.0 * (salt % 4) as f64),
    }
}

fn pair(first: &Setting, second: &Setting, n_tests: usize) -> Pair {
    let difference = |axis: Axis| {
        let (a, b) = (first.axes.get(&axis)?, second.axes.get(&axis)?);
        let half = (a.high - a.low).hypot(b.high - b.low) / 2.0;
        let change = Estimate { value: b.value - a.value, ..signed(b.value - a.value, half) };
        let z = 1.96 * change.value.abs() / half;
        let p = (-0.717 * z - 0.416 * z * z).exp();
        let p_holm = (p * n_tests as f64).min(1.0);
        let ratio = (2.8 / z.max(0.05)).powi(2);
        let n_needed = (p_holm >= 0.05 && ratio < 60.0).then(|| (ratio * N_ITEMS as f64).max(N_ITEMS as f64) as usize);
        let seeds_needed = (p_holm >= 0.05 && ratio < 200.0).then(|| (3.0 * ratio).ceil().max(3.0) as usize);
        let detectable = Some(1.43 * half);
        Some((axis, Difference { change, p_value: Some(p), p_holm: Some(p_holm), detectable, n_needed, seeds_needed }))
    };
    Pair {
        first: first.name.clone(),
        second: second.name.clone(),
        differences: Axis::ALL.into_iter().filter_map(difference).collect(),
    }
}

fn effects(trained: &[Setting]) -> Vec<Effect> {
    let steps = [("kl", "0.01", "0.05"), ("kl", "0.05", "0.1"), ("method", "dpo", "ppo"), ("method", "ppo", "rloo")];
    let steps = steps.into_iter().map(|(key, from, to)| {
        let mean = |axis: Axis, value: &str| {
            let own: Vec<f64> =
                trained.iter().filter(|s| s.values[key] == value).map(|s| s.axes[&axis].value).collect();
            (!own.is_empty()).then(|| own.iter().sum::<f64>() / own.len() as f64)
        };
        let change = |axis: Axis| {
            Some((axis, signed(mean(axis, to)? - mean(axis, from)?, if axis == Axis::Kl { 0.2 } else { 0.011 })))
        };
        Effect {
            key: key.to_owned(),
            from: from.to_owned(),
            to: to.to_owned(),
            n_pairs: 4,
            changes: Axis::ALL.into_iter().filter_map(change).collect(),
            sentence: format!("Changing {key} from {from} to {to} moves the model towards the start."),
        }
    });
    steps.filter(|effect| !effect.changes.is_empty()).collect()
}

fn choices(trained: &[Setting]) -> Vec<Choice> {
    let cares = [
        ("everything at once", 5),
        ("harmless requests being answered", 12),
        ("harmful requests being refused", 1),
        ("instructions being followed", 5),
        ("stated confidence being right", 12),
        ("keeping what the model knows", 12),
    ];
    let choice = |(care, i): (&str, usize)| {
        let setting = &trained.get(i % trained.len().max(1))?.name;
        let ties = trained.iter().skip(i / 2).take(2).filter(|s| s.name != *setting).map(|s| s.name.clone()).collect();
        let reason = "Harmless requests refused: 3.1 % (95 % interval 1.7 to 4.5, n = 260). Another setting is shown to be better on known facts kept. 910 items per seed, or 7 seeds, would tell the nearest apart.";
        Some(Choice { care: care.to_owned(), setting: setting.clone(), ties, reason: reason.to_owned() })
    };
    cares.into_iter().filter_map(choice).collect()
}

fn trust(by: Exploration, size: f64) -> Trust {
    let axes = &Axis::ALL[..5];
    Trust {
        by,
        bias: axes.iter().enumerate().map(|(i, &axis)| (axis, signed(0.012 * size * noise(i, 3), 0.014))).collect(),
        error: axes.iter().enumerate().map(|(i, &axis)| (axis, size * (0.01 + 0.006 * noise(i, 5)))).collect(),
        n: 4,
        is_trusted: size < 1.0,
        sentence: format!(
            "Off by up to {:.1} points (root mean square; n = 4 retrained settings; trusted up to 5 points).",
            2.0 * size
        ),
    }
}

fn over_optimisation(setting: &Setting, seed: u64) -> OverOptimisation {
    let is_over_optimised = setting.values["kl"] == "0.01";
    let last = setting.axes[&Axis::Kl].value;
    let (alpha, beta) = if is_over_optimised { (0.42, 0.36) } else { (0.3, 0.1) };
    let gold = |d: f64| if d > 0.0 { 0.5 + d * (alpha - beta * d.ln()) * 0.8 } else { 0.5 };
    let points = (1..=40).map(|step| {
        let kl_nats = last * f64::from(step) / 40.0;
        let d = kl_nats.sqrt();
        let wobble = 0.03 * noise(step as usize, seed as usize + 11);
        TrajectoryPoint {
            step: 10 * step as u64,
            kl_nats,
            proxy: 0.1 + d * (1.1 - 0.1 * d.ln()) + 3.0 * wobble,
            gold: Some((gold(d) + wobble).clamp(0.0, 1.0)),
            n: 320,
        }
    });
    let fit = |start, alpha: f64, beta: f64| RewardFit {
        start,
        alpha,
        beta,
        se: (0.02, 0.03),
        peak_d: Some((alpha / beta - 1.0).exp()),
        r_squared: 0.93,
    };
    OverOptimisation {
        setting: setting.name.clone(),
        seed,
        points: points.collect(),
        proxy: Some(fit(0.1, 1.1, 0.1)),
        gold: Some(fit(0.5, 0.8 * alpha, 0.8 * beta)),
        is_over_optimised,
        sentence: if is_over_optimised {
            "The reward that training saw went from 0.29 to 2.07 while right answers peaked at 82 % (at 1.21 nats from the start, reward 1.31) and fell to 63 % (reward 2.07): the reward was over-optimised. Stop earlier, or raise the price of divergence."
        } else {
            "The reward that training saw went from 0.21 to 1.12, right answers to 84 % at 0.83 nats from the start (best stretch 85 %): no fall beyond chance."
        }
        .to_owned(),
    }
}

fn alarms(trained: &[Setting]) -> Vec<Alarm> {
    let messages = [(180, "answers got 41 % longer than at the start"), (260, "entropy fell to 0.31 nats per token")];
    let alarm = |setting: &Setting| {
        messages.map(|(step, message)| Alarm {
            setting: setting.name.clone(),
            seed: 1,
            step,
            message: message.to_owned(),
        })
    };
    trained.iter().take(2).flat_map(alarm).collect()
}

fn estimate(value: f64, half: f64) -> Estimate {
    let method = "seeds crossed with items, t".to_owned();
    Estimate {
        value,
        low: (value - half).max(0.0),
        high: if value <= 1.0 { (value + half).min(1.0) } else { value + half },
        n: N_ITEMS,
        method,
    }
}

fn signed(value: f64, half: f64) -> Estimate {
    Estimate {
        value,
        low: value - half,
        high: value + half,
        n: N_ITEMS,
        method: "paired by seed and item, t".to_owned(),
    }
}

// Between -1 and 1, the same on every machine.
fn noise(a: usize, b: usize) -> f64 {
    ((a * 31 + b * 17 + 5) * 2_654_435_761 % 1_000_003) as f64 / 500_001.5 - 1.0
}
