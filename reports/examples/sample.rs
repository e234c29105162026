//! Writes the sample reports to a folder, to look at: `cargo run -p reports --example sample -- FOLDER`.

use std::path::PathBuf;

#[path = "../tests/asked/mod.rs"]
mod asked;
#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: sample FOLDER")?);
    for diagnosis in [sample::failing(), sample::healthy(), asked::asked(sample::failing())] {
        reports::write(&folder.join(format!("{}.html", diagnosis.run)), &reports::render_html(&diagnosis)?)?;
        reports::write(&folder.join(format!("{}.md", diagnosis.run)), &reports::render_markdown(&diagnosis)?)?;
    }
    Ok(())
}
