//! The findings as one page that needs no network: figures, tables, and plots for any threshold.

use serde_json::json;

use super::super::findings::Findings;
use super::{json, terminal};

/// The page; `MARK` stands where the data goes.
const PAGE: &str = include_str!("page.html");
const MARK: &str = "\"DATA\"";

pub fn page(findings: &Findings) -> String {
    let texts = json!({ "reading": terminal::reading(findings), "advice": terminal::recommendation(findings),
        "users": findings.users.as_ref().map(terminal::users_rest_on),
    });
    let data = json!({ "report": json::object(findings), "plots": json::plots(findings), "texts": texts }).to_string();
    // Within a script only `<` can end it or begin a comment.
    PAGE.replacen(MARK, &data.replace('<', "\\u003c"), 1)
}
