//! The findings as text, JSON, comma-separated values, and a page.

pub mod csv;
pub mod html;
pub mod json;
pub mod plot;
pub mod terminal;
