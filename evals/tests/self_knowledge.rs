//! What is told of checkpoints that were asked about themselves: a planted failure each, and its healthy twin.

use evals::cutoff::abstention::Abstention;
use evals::diagnosis::{Instrument, PhaseInfo, SelfKnowledge};
use evals::self_knowledge::measure;
use probes::item::{Behaviour, History, Item, Period, Task};
use probes::response::{Form, Label, Response};

/// Questions of each kind.
const N: usize = 40;

fn short_answer(id: String, cluster: &str, aliases: Vec<String>, history: Option<History>) -> Item {
    Item {
        id,
        behaviour: Behaviour::Knowledge,
        slice: "all".to_owned(),
        cluster: cluster.to_owned(),
        month: None,
        expected: !aliases.is_empty(),
        task: Task::ShortAnswer {
            question: "Who?".to_owned(),
            aliases,
            context: String::new(),
            shots: Vec::new(),
            history,
        },
    }
}

fn response(item: &Item, form: Form, score: f64, answer: &str, label: Option<Label>) -> Response {
    Response {
        subject: "a".to_owned(),
        item: item.id.clone(),
        form,
        score: Some(score),
        unscored: None,
        p_right: None,
        confidence: None,
        margin_nats: None,
        label,
        answer: answer.to_owned(),
        prompt: String::new(),
    }
}

fn told(items: &[Item], responses: &[Response]) -> Option<SelfKnowledge> {
    let phase = PhaseInfo { name: "sft".to_owned(), checkpoint: "a".to_owned(), ..PhaseInfo::default() };
    let mut told = measure(&[phase], items, responses).unwrap();
    assert!(told.len() <= 1);
    told.pop()
}

/// Questions about what never was, and their twins.
fn controls() -> Vec<Item> {
    (0..N)
        .flat_map(|at| {
            let town = format!("town {at}");
            let twin = short_answer(format!("twin/{at}"), &town, vec!["Ann Velt".to_owned()], None);
            [short_answer(format!("never/{at}"), &town, Vec::new(), None), twin]
        })
        .collect()
}

#[test]
fn who_invents_answers_is_told_from_who_knows_its_limits() {
    let items = controls();
    let ask = |declines: fn(&Item) -> bool| -> Abstention {
        let responses: Vec<Response> = items
            .iter()
            .map(|item| {
                let (declines, is_known) = (declines(item), item.expected);
                let score = f64::from(u8::from(declines != is_known));
                let (answer, label) =
                    if declines { ("I don't know.", Some(Label::Abstain)) } else { ("Ann Velt", None) };
                response(item, Form::Chat, score, answer, label)
            })
            .collect();
        told(&items, &responses).unwrap().abstention.unwrap()
    };
    let wise = ask(|item| !item.expected);
    assert_eq!(wise.unanswerable.as_ref().map(|shares| (shares.abstain.value, shares.abstain.n)), Some((1.0, N)));
    assert_eq!(wise.twins.as_ref().map(|shares| (shares.right.value, shares.right.n)), Some((1.0, N)));
    assert!(wise.sentence().starts_with("It declines what it cannot know more often than what it can: "));
    for blind in [ask(|_| false), ask(|_| true)] {
        assert!(
            blind.sentence().starts_with("It does not decline what it cannot know more often"),
            "{}",
            blind.sentence()
        );
    }
}

/// Facts of the months 0 to 19 with ways of declining; those from month 10 on are controls.
fn dated() -> Vec<Item> {
    let item = |at: usize| Item {
        id: format!("dated/{at}"),
        behaviour: Behaviour::KnowledgeCutoff,
        slice: "all".to_owned(),
        cluster: format!("event {at}"),
        month: Some(at as u32 / 4),
        expected: at / 4 < 10,
        task: Task::Choice {
            cloze: String::new(),
            shots: Vec::new(),
            question: "Who won?".to_owned(),
            context: "Lund won.".to_owned(),
            options: vec!["Lund".to_owned(), "Oslo".to_owned()],
            answer: 0,
            declines: vec!["I don't know.".to_owned()],
            ideal: None,
        },
    };
    (0..80).map(item).collect()
}

#[test]
fn after_the_cutoff_guessing_is_told_from_declining_and_what_the_items_lack_is_said() {
    let items = dated();
    let ask = |after: &str| {
        let answer = |item: &Item| {
            let (answer, score) = if item.expected { ("Lund", 1.0) } else { (after, 0.0) };
            response(item, Form::Chat, score, answer, None)
        };
        told(&items, &items.iter().map(answer).collect::<Vec<_>>()).unwrap()
    };
    let modest = ask("I don't know.");
    assert!(modest.abstention.unwrap().sentence().starts_with("It declines what it cannot know more often"));
    let guessing = ask("Oslo");
    let shares = guessing.abstention.as_ref().unwrap().post_cutoff.as_ref().unwrap();
    assert_eq!((shares.wrong.value, shares.wrong.n), (1.0, 40));
    assert!(guessing.abstention.as_ref().unwrap().sentence().starts_with("It does not decline"));
    let missing: Vec<Instrument> = guessing.not_measured.keys().copied().collect();
    assert_eq!(missing, [Instrument::CounterfactualContext, Instrument::AsOf]);
    assert!(guessing.not_measured[&Instrument::CounterfactualContext].ends_with("(`--also conflict`)"));

    // Without a way of declining nobody can decline.
    let mut items = dated();
    for item in &mut items {
        let Task::Choice { declines, .. } = &mut item.task else { unreachable!() };
        declines.clear();
    }
    let responses: Vec<Response> = items.iter().map(|item| response(item, Form::Chat, 1.0, "Lund", None)).collect();
    let reason = &told(&items, &responses).unwrap().not_measured[&Instrument::Abstention];
    assert_eq!(reason, "not measurable here: no answer to what it cannot know could have declined");
}

#[test]
fn who_ignores_a_context_is_told_from_who_reads_it() {
    let items = dated();
    let ask = |read: &str| {
        let known = items.iter().map(|item| response(item, Form::Chat, 1.0, "Lund", None));
        let against = items
            .iter()
            .map(|item| response(item, Form::Counterfactual, f64::from(u8::from(read == "Oslo")), read, None));
        told(&items, &known.chain(against).collect::<Vec<_>>()).unwrap().reliance.unwrap()
    };
    let deaf = ask("Lund");
    assert_eq!((deaf.memory.value, deaf.memory.n), (1.0, 40), "controls say nothing of it");
    assert!(deaf.sentence().starts_with("It keeps to what it knows, against what it reads"));
    assert!(ask("Oslo").sentence().starts_with("It goes by what it reads"));
}

#[test]
fn who_answers_as_of_another_year_is_told_from_who_is_up_to_date() {
    let mayor = |year: u32| format!("Mayor {year}");
    let items: Vec<Item> = (0..N)
        .map(|at| {
            let periods = (0..5).map(|year| Period { first: 12 * year, answers: vec![mayor(year)] }).collect();
            let history = History { asked: 12 * 4 + 5, periods };
            let name = format!("mayor/{at}");
            Item { month: Some(48), ..short_answer(name.clone(), &name, vec![mayor(4)], Some(history)) }
        })
        .collect();
    let ask = |year: u32| {
        let answer = |item: &Item| {
            response(item, Form::Chat, f64::from(u8::from(year == 4)), &format!("It is {}.", mayor(year)), None)
        };
        told(&items, &items.iter().map(answer).collect::<Vec<_>>()).unwrap().as_of.unwrap()
    };
    let stale = ask(2);
    // Right until the end of the third year, 18 months before the month that is asked about.
    assert_eq!(stale.mean_lag_months.as_ref().map(|lag| (lag.value, lag.n)), Some((18.0, N)));
    assert!(stale.sentence().starts_with("Its answers are out of date: by 18.0 months"), "{}", stale.sentence());
    assert!(ask(4).sentence().starts_with("Its answers are as old as what is asked"), "{}", ask(4).sentence());
}

#[test]
fn a_bank_that_asks_nothing_of_the_kind_is_told_nothing_of_it() {
    let item = short_answer("1".to_owned(), "1", vec!["Ann Velt".to_owned()], None);
    assert_eq!(told(std::slice::from_ref(&item), &[response(&item, Form::Chat, 1.0, "Ann Velt", None)]), None);
}
