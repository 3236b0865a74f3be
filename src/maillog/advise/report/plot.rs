//! Plots in text, of block and braille characters, or of ASCII where the locale is not UTF-8.

use std::collections::BTreeMap;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::symbols::Marker;
use ratatui::widgets::Widget;
use ratatui::widgets::canvas::{Canvas, Line};

use crate::maillog::text::number;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Characters {
    Unicode,
    Plain,
}

impl Characters {
    /// Those of the locale.
    pub fn of_locale() -> Self {
        let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
        let name = set.map(|value| value.to_string_lossy().to_ascii_uppercase().replace('-', "")).unwrap_or_default();
        if name.ends_with("UTF8") { Self::Unicode } else { Self::Plain }
    }
}

/// Columns of one bar.
const BAR: usize = 24;

/// Clients by the most sessions they had in a window, in bars: on the left those that delivered mail,
/// on the right the others. A line marks the threshold. Bars are logarithmic.
pub fn distribution(peaks: &BTreeMap<u32, (u64, u64)>, threshold: Option<u32>, characters: Characters) -> String {
    let highest = peaks.keys().next_back().copied().unwrap_or(1);
    let mut bounds: Vec<u32> = (0..32).map(|power| 1_u32 << power).take_while(|bound| *bound <= highest).collect();
    bounds.extend(threshold.map(|threshold| threshold.saturating_add(1)).filter(|bound| *bound <= highest));
    bounds.sort_unstable();
    bounds.dedup();
    let rows: Vec<(u32, u32, u64, u64)> = bounds
        .iter()
        .enumerate()
        .map(|(at, first)| {
            let last = bounds.get(at + 1).map_or(highest, |next| next - 1);
            let sum = peaks.range(*first..=last).fold((0, 0), |(a, b), (_, (c, d))| (a + c, b + d));
            (*first, last, sum.0, sum.1)
        })
        .collect();
    let most = rows.iter().map(|(.., a, b)| *a.max(b)).max().unwrap_or(0);
    let mut text = format!("{:>13}  {:<width$}  {}\n", "sessions", "delivered mail", "others", width = BAR + 10);
    let mut is_marked = false;
    for (first, last, senders, others) in rows {
        if let Some(threshold) = threshold.filter(|threshold| *threshold < first && !is_marked) {
            let line = match characters {
                Characters::Unicode => "─",
                Characters::Plain => "-",
            };
            text += &format!("{:>13}  {}\n", format!("over {}", number(threshold.into())), line.repeat(2 * BAR + 22));
            is_marked = true;
        }
        let range = if first == last {
            number(first.into())
        } else {
            format!("{}-{}", number(first.into()), number(last.into()))
        };
        let bars = [senders, others].map(|count| {
            let label = if count > 0 { format!(" {}", number(count)) } else { String::new() };
            let text = bar(count, most, characters) + &label;
            let width = text.chars().count();
            text + &" ".repeat((BAR + 10).saturating_sub(width))
        });
        text += format!("{range:>13}  {}  {}", bars[0], bars[1]).trim_end();
        text.push('\n');
    }
    text
}

fn bar(count: u64, most: u64, characters: Characters) -> String {
    if count == 0 {
        return String::new();
    }
    let share = (1.0 + count as f64).ln() / (1.0 + most as f64).ln();
    match characters {
        Characters::Unicode => {
            let eighths = ((share * BAR as f64 * 8.0) as usize).max(1);
            let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
            "█".repeat(eighths / 8) + part
        }
        Characters::Plain => "#".repeat(((share * BAR as f64) as usize).max(1)),
    }
}

/// Columns and rows of an area.
const AREA: (u16, u16) = (72, 6);

/// Numbers over time as an area, the highest labelled.
pub fn area(numbers: &[u64], characters: Characters) -> String {
    let (columns, rows) = AREA;
    // A character of braille has two columns of four dots.
    let (marker, across, up) = match characters {
        Characters::Unicode => (Marker::Braille, columns * 2, rows * 4),
        Characters::Plain => (Marker::Block, columns, rows),
    };
    let levels = resample(numbers, across.into());
    let most = levels.iter().copied().fold(0.0, f64::max);
    let top = f64::from(up);
    let canvas = Canvas::default().marker(marker).x_bounds([1.0, f64::from(across)]).y_bounds([1.0, top]).paint(|it| {
        for (x, level) in (1..).zip(&levels).filter(|(_, level)| **level > 0.0) {
            // A level above zero is visible.
            let height = (level / most * top).round().max(1.0);
            it.draw(&Line::new(x.into(), 1.0, x.into(), height, Color::Reset));
        }
    });
    let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
    canvas.render(buffer.area, &mut buffer);
    let mut text = String::new();
    for (row, cells) in buffer.content.chunks(columns.into()).enumerate() {
        let label = match row {
            0 => number(numbers.iter().copied().max().unwrap_or(0)),
            row if row + 1 == usize::from(rows) => "0".to_owned(),
            _ => String::new(),
        };
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        let line = if characters == Characters::Plain { line.replace(|c| c != ' ', "#") } else { line };
        text += format!("{label:>13}  {line}").trim_end();
        text.push('\n');
    }
    text
}

/// The numbers in so many steps, each the highest of those that fall into it.
fn resample(numbers: &[u64], steps: usize) -> Vec<f64> {
    let part = |step: usize| {
        let first = step * numbers.len() / steps;
        let last = ((step + 1) * numbers.len()).div_ceil(steps).max(first + 1).min(numbers.len());
        numbers.get(first..last).unwrap_or_default().iter().copied().max().unwrap_or(0) as f64
    };
    (0..steps).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_parts_the_bars() {
        let peaks = BTreeMap::from([(1, (4, 9)), (7, (1, 0)), (9, (0, 1)), (300, (0, 2))]);
        let text = distribution(&peaks, Some(7), Characters::Plain);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1][0], "1");
        assert_eq!(rows[1].iter().filter(|word| word.starts_with('#')).count(), 2);
        let over = rows.iter().position(|row| row[0] == "over").unwrap();
        assert_eq!(rows[over - 1][0], "4-7");
        assert_eq!(rows[over + 1][0], "8-15");
        assert_eq!(rows.last().unwrap()[..], ["256-300", "###########", "2"][..]);
        assert!(text.is_ascii());
    }

    #[test]
    fn an_area_shows_the_course_and_its_peak() {
        let numbers: Vec<u64> = (0..500).map(|at| if at == 250 { 1_000 } else { u64::from(at > 400) }).collect();
        let plain = area(&numbers, Characters::Plain);
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(lines.len(), usize::from(AREA.1));
        assert!(lines[0].starts_with("        1,000  ") && lines[0].ends_with('#'));
        assert_eq!(lines[0].matches('#').count(), 1);
        assert!(lines[5].matches('#').count() > 10);
        let dots = area(&numbers, Characters::Unicode);
        assert_eq!(dots.lines().next().unwrap().matches(|c| c > '\u{2800}' && c <= '\u{28ff}').count(), 1);
        assert_eq!(area(&[], Characters::Unicode).lines().count(), usize::from(AREA.1));
    }
}
