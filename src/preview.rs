//! What a subject would see: the first item of each behaviour in each form, with its tokens.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::Result;
use lm::Subject;
use probes::item::Item;
use probes::probe_of;
use probes::response::Form;

/// Renders the first item of each behaviour as `name` would be asked it.
pub(crate) fn render(name: &str, subject: &dyn Subject, items: &[Item]) -> Result<String> {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    for item in items.iter().filter(|item| seen.insert(item.behaviour)) {
        for form in Form::STANDARD {
            let Some(elicitation) = probe_of(item.behaviour).plan(item, form, subject) else { continue };
            let shown = subject.render(&elicitation.prompt)?;
            writeln!(text, "{} · {} · {} · asked of {name}", item.behaviour.name(), item.id, form.name())?;
            writeln!(text, "{shown}")?;
            if let Some(ids) = subject.token_ids(&shown)? {
                writeln!(text, "  {} tokens: {ids:?}", ids.len())?;
            }
            for request in &elicitation.score {
                writeln!(text, "  likelihood of {:?}", request.continuation)?;
            }
            if let Some(request) = &elicitation.generate {
                writeln!(text, "  answer of at most {} tokens", request.max_new_tokens)?;
            }
            text.push('\n');
        }
    }
    Ok(text)
}
