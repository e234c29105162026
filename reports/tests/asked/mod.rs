//! A diagnosis whose checkpoints were asked about themselves, in months of the calendar, and whose knowledge fades: invented figures.

use std::collections::BTreeMap;

use evals::diagnosis::{
    AskedConfidence, Beside, CalibrationCurve, CutoffEstimate, CutoffFall, CutoffRamp, Diagnosis, Estimate, Instrument,
    SelfKnowledge, StatedAnswer, StatedCutoff,
};
use probes::response::Form;

/// January 2020, the first month of the invented world.
const JANUARY: u32 = 12 * 2020;

/// Tells of the first lineage that SFT ends twice, and that RLHF fades, says a month that is later, and is too sure.
pub(crate) fn asked(mut diagnosis: Diagnosis) -> Diagnosis {
    "invented-figures-asked".clone_into(&mut diagnosis.run);
    let lineage = &mut diagnosis.lineages[0];
    for curve in &mut lineage.cutoffs {
        curve.months.iter_mut().for_each(|(month, _)| *month += JANUARY);
        curve.declared = curve.declared.map(|month| month + JANUARY);
        if let Some(CutoffEstimate { month, low, high, .. }) = &mut curve.estimate {
            for month in [month, low, high] {
                *month += JANUARY;
            }
        }
    }
    lineage.cutoffs[1].falls = vec![
        CutoffFall { month: JANUARY + 24, before: 0.91, after: 0.55 },
        CutoffFall { month: JANUARY + 36, before: 0.55, after: 0.25 },
    ];
    let place = |month: f64| {
        let month = f64::from(JANUARY) + month;
        Estimate { value: month, low: month - 2.0, high: month + 1.5, n: 960, method: "profile likelihood".to_owned() }
    };
    let fading = lineage.cutoffs[2].estimate.as_mut().expect("the sample has one");
    (fading.low, fading.high) = (JANUARY + 33, JANUARY + 38);
    let (before, after) = (0.92, 0.25);
    fading.ramp =
        Some(CutoffRamp { onset: place(30.0), midpoint: place(36.0), end: place(42.0), before, after, bic_gain: 21.4 });
    let by_likelihood = lineage.calibration[2].clone();
    let too_sure = Estimate { value: 0.31, low: 0.27, high: 0.35, n: 512, method: "clustered".to_owned() };
    let error = Estimate { value: 0.312, low: 0.274, high: 0.351, n: 512, method: "bootstrap".to_owned() };
    lineage.calibration.push(CalibrationCurve { form: Form::Verbalised, ..by_likelihood });
    let said =
        |answer: &str, months| StatedAnswer { question: "Until when?".to_owned(), answer: answer.to_owned(), months };
    lineage.self_knowledge = vec![
        SelfKnowledge {
            phase: "pretrain".to_owned(),
            not_measured: BTreeMap::from([(
                Instrument::StatedCutoff,
                "not measurable here: none of 4 answers names a month".to_owned(),
            )]),
            ..SelfKnowledge::default()
        },
        SelfKnowledge {
            phase: "rlhf".to_owned(),
            stated_cutoff: Some(StatedCutoff {
                first: JANUARY + 44,
                last: JANUARY + 44,
                is_agreed: true,
                beside: Some((Beside::Later, 7)),
                answers: vec![said("September 2023", Some((JANUARY + 44, JANUARY + 44))), said("I cannot say.", None)],
            }),
            confidence: vec![AskedConfidence {
                instrument: Instrument::VerbalisedConfidence,
                n_without: 8,
                error,
                p_value: 0.001,
                overconfidence: too_sure,
            }],
            ..SelfKnowledge::default()
        },
    ];
    diagnosis
}
