//! A configuration of whatever form its content says.

use super::configuration;

/// Reads it, and uses it if it is one.
pub fn run(data: &[u8]) {
    if !configuration::names_files(data) {
        configuration::read(data);
    }
}
