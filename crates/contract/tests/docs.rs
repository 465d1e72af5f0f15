//! `docs/errors.md` is the list of codes for callers; it is made from the one in the code.

use innover_contract::Code;

#[test]
fn the_documented_codes_are_the_ones_in_the_code() {
    let mut page = String::from(
        "# Errors\n\n\
         Every error is an RFC 9457 problem (`application/problem+json`): `type`, `title`, `status`, `detail` (what \
         happened and what to do), `instance`, a stable `code`, `param` (JSON pointer of the field at fault) where \
         there is one, and `request_id`. `/oauth2/*` answers as RFC 6749 §5.2 says instead.\n\n\
         | code | status | title |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        page += &format!(
            "| `{}` | {} | {} |\n",
            code.as_str(),
            code.status(),
            code.title()
        );
    }
    page += "\nThis page is made by `UPDATE_DOCS=1 cargo test --release -p innover-contract`.\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/errors.md can be written");
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        written, page,
        "run UPDATE_DOCS=1 cargo test --release -p innover-contract"
    );
}
