//! What a report tells of checkpoints that were asked about themselves, and of knowledge that does not end at once.

#[path = "asked/mod.rs"]
mod made;
mod promise;
mod sample;

use evals::diagnosis::Instrument;
use reports::{render_html, render_json, render_markdown};

/// A page without its tags.
fn words(page: &str) -> String {
    let text: String = page.split('<').map(|part| part.split_once('>').map_or("", |(_, text)| text)).collect();
    text.replace("&#39;", "'").replace("&quot;", "\"")
}

#[test]
fn what_a_checkpoint_says_of_itself_stands_beside_what_was_measured() {
    let diagnosis = made::asked(sample::failing());
    let page = render_html(&diagnosis).unwrap();
    let text = words(&page);
    let stated = "It says that its knowledge ends in 2023-09 (1 of 2 ways of asking name a month): stated later than measured, by 7 months at \
                  least.";
    // In the panel of its months, and in the table.
    assert_eq!(text.matches(stated).count(), 2, "{text}");
    assert!(
        text.contains("says: until 2023-09") && text.contains("not measurable here: none of 4 answers names a month")
    );
    assert!(text.contains("Off by more than chance explains: debiased calibration error 0.312 [0.274, 0.351]"));
    assert!(text.contains("mean confidence less share right +31 points [+27, +35], n = 512; 8 answers state none."));
    assert!(text.contains("RLHF · probability stated in words") && text.contains("By likelihood (chat):"), "{text}");
    promise::is_self_contained(&page, 1);
    assert!(render_markdown(&diagnosis).unwrap().contains("stated later than measured, by 7 months at least."));

    let healthy = words(&render_html(&sample::healthy()).unwrap());
    assert!(!healthy.contains("says: until") && !healthy.contains("Does it know what it does not know?"));
}

#[test]
fn knowledge_that_fades_or_falls_twice_is_drawn_and_said() {
    let page = render_html(&made::asked(sample::failing())).unwrap();
    let text = words(&page);
    assert!(
        text.contains(
            "It fades rather than stops, from 92% to 25% right: 10% of the drop is lost by month 2022-07 [2022-05 to 2022-09], half by \
             2023-01 [2022-11 to 2023-03], 90% by 2023-07 [2023-05 to 2023-09] (brackets hold 95% intervals; n = 960 questions)."
        ),
        "{text}"
    );
    assert!(text.contains(
        "It falls more than once: before month 2022-01 from 91% to 55%, before month 2023-01 from 55% to 25%."
    ));
    assert_eq!((page.matches("class=\"decay\"").count(), page.matches("class=\"decay-dot\"").count()), (1, 3));
    assert!(!render_html(&sample::failing()).unwrap().contains("class=\"decay\""));
}

#[test]
fn a_record_without_them_is_read_and_written_as_it_was() {
    let text = render_json(&sample::failing()).unwrap();
    assert!(!text.contains("self_knowledge") && !text.contains("\"falls\""));
    let asked = made::asked(sample::failing());
    let read: evals::diagnosis::Diagnosis = serde_json::from_str(&render_json(&asked).unwrap()).unwrap();
    assert_eq!(read.lineages[0].self_knowledge, asked.lineages[0].self_knowledge);
}

#[test]
fn what_a_model_or_a_server_brings_along_is_shown_and_never_run() {
    let mut diagnosis = made::asked(sample::failing());
    for knowledge in &mut diagnosis.lineages[0].self_knowledge {
        knowledge.phase = promise::HOSTILE.to_owned();
        knowledge.not_measured.insert(Instrument::PTrue, promise::HOSTILE.to_owned());
    }
    promise::shows_hostile_text(&render_html(&diagnosis).unwrap(), 1);
}
