//! The findings as one page that needs no network: figures, a table, and plots that answer to a threshold.

use serde_json::json;

use super::super::findings::Findings;
use super::json;

/// The page; the data stands where the mark is.
const PAGE: &str = include_str!("page.html");
const MARK: &str = "\"DATA\"";

/// All of it.
pub fn page(findings: &Findings) -> String {
    let data = json!({ "report": json::object(findings), "plots": json::plots(findings) }).to_string();
    // Within a script only `<` can end it or begin a comment.
    PAGE.replacen(MARK, &data.replace('<', "\\u003c"), 1)
}
