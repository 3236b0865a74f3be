//! Draws the screen of `connshaper top`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table};

use super::{Screen, ScreenRow, Sort};
use crate::control::text::lasting;
use crate::control::top::{ALL, TopAnswer};

/// The character that bars are made of.
pub(super) const BAR: &str = "\u{2501}";

/// The width of the columns that are always shown, on a wide screen.
const COLUMNS: usize = 45 + 20 + 9 + 9 + 7 + 11 + 6;

/// The width of `12.3x ` before a bar.
const TIMES: usize = 8;

impl Screen {
    /// Draws all of it.
    pub fn draw(&mut self, frame: &mut Frame) {
        let alarm = self.alarm();
        let heights = [
            Constraint::Length(2),
            Constraint::Length(u16::from(alarm.is_some())),
            Constraint::Length(6),
            Constraint::Min(3),
            Constraint::Length(1),
        ];
        let areas = Layout::vertical(heights).split(frame.area());
        frame.render_widget(Paragraph::new(self.head()), areas[0]);
        if let Some(alarm) = alarm {
            let style = Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD);
            frame.render_widget(Paragraph::new(format!(" {alarm} ")).style(style), areas[1]);
        }
        self.picture(frame, areas[2]);
        self.rows(frame, areas[3]);
        frame.render_widget(Paragraph::new(self.foot()).style(Style::new().add_modifier(Modifier::DIM)), areas[4]);
    }

    /// A line above all others: the daemon does not answer, or the store is down.
    fn alarm(&self) -> Option<String> {
        if let Some(error) = &self.error {
            return Some(format!("NO ANSWER: {error}"));
        }
        let down = self.answer.status.store.servers.iter().filter(|server| server.down);
        let down: Vec<String> =
            down.map(|server| format!("{} for {}", server.server, lasting(server.down_seconds.unwrap_or(0)))).collect();
        (!down.is_empty()).then(|| format!("STORE DOWN: {}", down.join(", ")))
    }

    fn head(&self) -> Vec<Line<'static>> {
        let TopAnswer { status, latency, .. } = &self.answer;
        let bold = |text: String| Span::styled(text, Style::new().add_modifier(Modifier::BOLD));
        let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| format!("{:.1} ms", seconds * 1000.0));
        let store = match (&status.store.kind, milliseconds(latency.median), milliseconds(latency.p99)) {
            (kind, Some(median), Some(p99)) => format!("{kind}, median {median}, 99% {p99}"),
            (kind, ..) => kind.clone(),
        };
        vec![
            Line::from(vec![
                bold(format!("connshaper {}", status.version)),
                Span::raw(format!("  up {}  store: {store}", lasting(status.uptime))),
            ]),
            Line::from(format!(
                "{:.1} requests/s  {:.1} refused/s  {} sessions  {} waiting  {} clients  bans: {} by admins, {} by limits",
                status.queries_per_second,
                status.refusals_per_second,
                status.sessions,
                status.waiting,
                status.clients,
                status.administrator_bans,
                status.limit_bans,
            )),
        ]
    }

    fn picture(&self, frame: &mut Frame, area: Rect) {
        let refusals = &self.answer.status.refusals;
        let shown = refusals.len().min(usize::from(area.width));
        let latest = &refusals[refusals.len() - shown..];
        let most = latest.iter().max().copied().unwrap_or(0);
        let title = format!(" refused each second, the last {} (at most {most}) ", lasting(shown as u64));
        let block = Block::new().borders(Borders::TOP).title(title);
        let inner = block.inner(area);
        frame.render_widget(block, area);
        // The present is at the right edge.
        let width = u16::try_from(shown).unwrap_or(u16::MAX).min(inner.width);
        let right = Rect { x: inner.x + inner.width - width, width, ..inner };
        let style = Style::new().fg(Color::Red);
        frame.render_widget(Sparkline::default().data(latest).max(most.max(1)).style(style), right);
    }

    fn rows(&mut self, frame: &mut Frame, area: Rect) {
        let sorted = |sort, name: &'static str| if self.sort == sort { format!("{name} v") } else { name.to_owned() };
        let is_of_clients = self.answer.keys.is_none();
        // In the view of one limit the title names it, and long keys get the room of the column.
        let has_limit = is_of_clients || self.limit.as_deref() == Some(ALL);
        let heading = [
            sorted(Sort::Key, if is_of_clients { "client" } else { "key" }),
            "limit".to_owned(),
            format!("{:>9}", sorted(Sort::Count, "count")),
            format!("{:>9}", "of"),
            format!("{:>7}", sorted(Sort::Share, "share")),
            format!("{:>11}", sorted(Sort::Left, "left")),
            "of its limit".to_owned(),
        ];
        // A wide screen shows bars of each row's share: limits may count different things.
        let room = usize::from(area.width).saturating_sub(COLUMNS + TIMES);
        let is_shown = |column: usize| (column != 1 || has_limit) && (column != 6 || room > 0);
        let shown = |cells: [String; 7]| {
            Row::new(cells.into_iter().enumerate().filter_map(move |(at, cell)| is_shown(at).then_some(cell)))
        };
        let most = self.rows.iter().map(ScreenRow::times).fold(0.0, f64::max);
        // An origin is shown whole or not at all: half of a number would be another one.
        let limit_column = if has_limit { 20 + 1 } else { 0 };
        let bars = if room > 0 { TIMES + room + 1 } else { 0 };
        let key_room = usize::from(area.width).saturating_sub(9 + 9 + 7 + 11 + 4 + limit_column + bars);
        let with_origin = |key: &String, origin: &[String; 2]| {
            let both = origin.iter().filter(|text| !text.is_empty()).map(|text| format!("{key}  {text}"));
            both.into_iter().find(|both| both.chars().count() <= key_room).unwrap_or_else(|| key.clone())
        };
        let row = |row: &ScreenRow| {
            let ScreenRow { limit, key, count, threshold, left, over, origin } = row;
            let style = if *over { Style::new().fg(Color::Red) } else { Style::new() };
            let (count, of, left) =
                (format!("{count:>9}"), format!("{threshold:>9}"), format!("{:>11}", lasting(*left)));
            // Rounded down, so that 100% means that nothing more is allowed.
            let share = format!("{:>6}%", (row.times() * 100.0).floor());
            let far = format!("{:>6.1}x {}", row.times(), bar(row.times() / most, room));
            shown([with_origin(key, origin), limit.clone(), count, of, share, left, far]).style(style)
        };
        let widths = [
            Constraint::Fill(3),
            if has_limit { Constraint::Max(20) } else { Constraint::Max(0) },
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(7),
            Constraint::Length(11),
            Constraint::Length(u16::try_from(TIMES + room).unwrap_or(u16::MAX)),
        ];
        let widths = widths.into_iter().enumerate().filter_map(|(at, width)| is_shown(at).then_some(width));
        let title = match (&self.answer.keys, &self.limit) {
            (Some(_), Some(limit)) if limit != ALL => format!(" nearest to limit {limit}, {} ", self.rows.len()),
            (Some(_), _) => format!(" nearest to their limits, {} ", self.rows.len()),
            (None, _) => format!(" busiest clients, {} ", self.rows.len()),
        };
        let heading = shown(heading).style(Style::new().add_modifier(Modifier::BOLD));
        let table = Table::new(self.rows.iter().map(row), widths)
            .header(heading)
            .block(Block::new().borders(Borders::TOP).title(title))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn foot(&self) -> String {
        self.message.clone().unwrap_or_else(|| {
            "tab limits  s share  c count  l left  a key  b ban 1 h  u unban  r reset  q quit".to_owned()
        })
    }
}

/// A line that fills a share of a width. Rows of it stay apart.
fn bar(share: f64, width: usize) -> String {
    BAR.repeat(((share * width as f64) as usize).max(1))
}
