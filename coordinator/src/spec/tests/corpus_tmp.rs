#[test]
fn render_corpus_tmp() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad-pipelines");
    let out = "/tmp/scratch/spec/rendered";
    std::fs::create_dir_all(out).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let p = format!("{name}.toml");
        let checked = super::super::check(&text, &p, &super::catalogue());
        std::fs::write(format!("{out}/{name}"), checked.render(&p, &text, false)).unwrap();
    }
}
