//! Writes the sample comparisons to a folder, to look at: `cargo run -p reports --example sweep -- FOLDER`.

use std::path::PathBuf;

#[path = "../tests/sweep/mod.rs"]
mod sweep;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: sweep FOLDER")?);
    for comparison in [sweep::of(16), sweep::of(2), sweep::empty()] {
        let name = format!("{}-{}", comparison.name, comparison.settings.len());
        reports::write(&folder.join(format!("{name}.html")), &reports::render_comparison_html(&comparison)?)?;
        reports::write(&folder.join(format!("{name}.md")), &reports::render_comparison_markdown(&comparison)?)?;
    }
    Ok(())
}
