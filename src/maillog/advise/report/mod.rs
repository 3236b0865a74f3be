//! The findings, told in four ways: for a terminal, as JSON, as a table for other programs, as a page.

pub mod csv;
pub mod html;
pub mod json;
pub mod plot;
pub mod terminal;
