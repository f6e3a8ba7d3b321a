//! What a reader sees of a wrong configuration: each file in `tests/data/config/faults` beside its rendered faults.

use std::fs;
use std::path::Path;

use quoit::config::{check_text, import};

#[test]
fn every_wrong_file_shows_its_faults() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config/faults");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(&directory);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut seen = 0;
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let Some((_, extension @ ("toml" | "yml"))) = name.rsplit_once('.') else { continue };
        let text = fs::read_to_string(&file).unwrap();
        let faults = if extension == "toml" {
            check_text(name, &text).expect_err(name)
        } else {
            import::nutcracker(name, &text).expect_err(name)
        };
        settings.bind(|| insta::assert_snapshot!(name, faults.to_string()));
        seen += 1;
    }
    assert!(0 < seen, "there are files to check");
}
