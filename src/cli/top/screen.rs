//! What `connshaper top` shows. Draws what it is told and asks nobody.

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table, TableState};

use crate::control::show::ClientStatus;
use crate::control::text::lasting;
use crate::control::top::TopAnswer;

/// By what the clients are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Those with the most hits first.
    Count,
    /// Those whose window ends last first.
    Left,
    /// By address.
    Key,
}

/// What bars are made of.
const BAR: &str = "\u{2501}";

/// What the columns that are always there take of a wide screen.
const COLUMNS: usize = 45 + 20 + 9 + 9 + 11 + 5 + 6;

/// What `12.3x ` takes before a bar.
const TIMES: usize = 8;

/// The screen.
#[derive(Debug)]
pub struct Screen {
    answer: TopAnswer,
    rows: Vec<ClientStatus>,
    sort: Sort,
    table: TableState,
    /// What the last key did.
    said: Option<String>,
    /// Why the daemon does not answer any more.
    lost: Option<String>,
}

impl Screen {
    /// A screen of what the daemon said first.
    pub fn new(answer: TopAnswer) -> Self {
        let (rows, table) = (answer.busiest.clone(), TableState::new().with_selected(0));
        let mut screen = Self { answer, rows, sort: Sort::Count, table, said: None, lost: None };
        screen.arrange();
        screen
    }

    /// The daemon said this. The same client stays selected.
    pub fn heard(&mut self, answer: TopAnswer) {
        let selected = self.selected();
        self.rows = answer.busiest.clone();
        self.answer = answer;
        self.lost = None;
        self.arrange();
        if let Some(place) = self.rows.iter().position(|row| Some(&row.key) == selected.as_ref()) {
            self.table.select(Some(place));
        }
    }

    /// The daemon does not answer.
    pub fn lost(&mut self, error: String) {
        self.lost = Some(error);
    }

    /// Says what a key did.
    pub fn say(&mut self, said: String) {
        self.said = Some(said);
    }

    /// Sorts by something else.
    pub fn sort(&mut self, sort: Sort) {
        self.sort = sort;
        self.arrange();
    }

    /// Moves the selection.
    pub fn select(&mut self, steps: isize) {
        let last = self.rows.len().saturating_sub(1);
        let place = self.table.selected().unwrap_or(0).saturating_add_signed(steps).min(last);
        self.table.select(Some(place));
        self.said = None;
    }

    /// The key of the selected client.
    pub fn selected(&self) -> Option<String> {
        self.rows.get(self.table.selected()?).map(|row| row.key.clone())
    }

    fn arrange(&mut self) {
        match self.sort {
            Sort::Count => self.rows.sort_by_key(|row| (Reverse(row.count), row.key.clone())),
            Sort::Left => self.rows.sort_by_key(|row| (Reverse(row.left), row.key.clone())),
            Sort::Key => self.rows.sort_by_key(|row| row.key.clone()),
        }
    }

    /// Draws all of it.
    pub fn draw(&mut self, frame: &mut Frame) {
        let trouble = self.trouble();
        let heights = [
            Constraint::Length(2),
            Constraint::Length(u16::from(trouble.is_some())),
            Constraint::Length(6),
            Constraint::Min(3),
            Constraint::Length(1),
        ];
        let areas = Layout::vertical(heights).split(frame.area());
        frame.render_widget(Paragraph::new(self.head()), areas[0]);
        if let Some(trouble) = trouble {
            let style = Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD);
            frame.render_widget(Paragraph::new(format!(" {trouble} ")).style(style), areas[1]);
        }
        self.picture(frame, areas[2]);
        self.clients(frame, areas[3]);
        frame.render_widget(Paragraph::new(self.foot()).style(Style::new().add_modifier(Modifier::DIM)), areas[4]);
    }

    /// What everybody should see first.
    fn trouble(&self) -> Option<String> {
        if let Some(error) = &self.lost {
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

    fn clients(&mut self, frame: &mut Frame, area: Rect) {
        let sorted = |sort, name: &'static str| if self.sort == sort { format!("{name} v") } else { name.to_owned() };
        let heading = [
            sorted(Sort::Key, "client"),
            "limit".to_owned(),
            format!("{:>9}", sorted(Sort::Count, "count")),
            format!("{:>9}", "of"),
            format!("{:>11}", sorted(Sort::Left, "left")),
            String::new(),
            "of its limit".to_owned(),
        ];
        // Where there is room for it, how far each has got: limits may count different things.
        let room = usize::from(area.width).saturating_sub(COLUMNS + TIMES);
        let columns = if room > 0 { 7 } else { 6 };
        let times = |row: &ClientStatus| row.count as f64 / row.threshold.max(1) as f64;
        let most = self.rows.iter().map(times).fold(0.0, f64::max);
        let row = |row: &ClientStatus| {
            let ClientStatus { key, count, threshold, left, over, .. } = row;
            let (state, style) = match over {
                true => ("over", Style::new().fg(Color::Red)),
                false => ("", Style::new()),
            };
            let (key, limit) = (key.clone(), row.limit());
            let (count, of, left) =
                (format!("{count:>9}"), format!("{threshold:>9}"), format!("{:>11}", lasting(*left)));
            let far = format!("{:>6.1}x {}", times(row), bar(times(row) / most, room));
            Row::new([key, limit, count, of, left, state.to_owned(), far].into_iter().take(columns)).style(style)
        };
        let widths = [
            Constraint::Max(45),
            Constraint::Max(20),
            Constraint::Length(9),
            Constraint::Length(9),
            Constraint::Length(11),
            Constraint::Length(5),
            Constraint::Min(0),
        ];
        let title = format!(" busiest clients, {} ", self.rows.len());
        let heading = Row::new(heading.into_iter().take(columns)).style(Style::new().add_modifier(Modifier::BOLD));
        let table = Table::new(self.rows.iter().map(row), widths.into_iter().take(columns))
            .header(heading)
            .block(Block::new().borders(Borders::TOP).title(title))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn foot(&self) -> String {
        self.said.clone().unwrap_or_else(|| {
            "up/down  sort: c count  l left  a address  b ban 1 h  u unban  r reset  q quit".to_owned()
        })
    }
}

/// A line that fills a share of a width. Rows of it stay apart.
fn bar(share: f64, width: usize) -> String {
    BAR.repeat(((share * width as f64) as usize).max(1))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::control::status::{ServerStatus, StatusAnswer, StoreStatus};
    use crate::control::top::StoreLatency;

    fn answer(down: bool) -> TopAnswer {
        let client = |n: u32| ClientStatus {
            limit: "connections".to_owned(),
            door: "smtp".to_owned(),
            key: format!("198.51.100.{n}"),
            count: n.into(),
            threshold: 10,
            left: n,
            over: n > 10,
        };
        let server = ServerStatus {
            server: "inet:mc:11211".to_owned(),
            breaker: "open".to_owned(),
            down,
            down_seconds: down.then_some(75),
        };
        let status = StatusAnswer {
            version: "0.1.0".to_owned(),
            uptime: 3700,
            store: StoreStatus {
                kind: "memcached".to_owned(),
                chosen_by: Some("memcached_server".to_owned()),
                state: "up".to_owned(),
                servers: vec![server],
            },
            queries_per_second: 812.4,
            refusals_per_second: 700.0,
            refusals: (0..300).map(|n| n % 50 * 20).collect(),
            clients: 60,
            sessions: 40,
            waiting: 2,
            administrator_bans: 1,
            limit_bans: 3,
            ..StatusAnswer::default()
        };
        let latency = StoreLatency { median: Some(0.00025), p99: Some(0.0025) };
        TopAnswer { status, busiest: (1..=60).map(client).collect(), latency }
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(line).collect()
    }

    #[test]
    fn a_small_and_a_large_terminal_show_the_busiest_first() {
        for (width, height) in [(80, 24), (200, 50)] {
            let mut screen = Screen::new(answer(false));
            let lines = drawn(&mut screen, width, height);
            eprintln!("{}", lines.join("\n"));
            assert!(
                lines[0].starts_with("connshaper 0.1.0  up 1 h 1 min  store: memcached, median 0.2 ms, 99% 2.5 ms"),
                "{}",
                lines[0]
            );
            assert!(lines[1].starts_with("812.4 requests/s  700.0 refused/s"), "{}", lines[1]);
            assert!(width == 80 || lines[1].contains("  bans: 1 by admins, 3 by limits"), "{}", lines[1]);
            let first = lines.iter().position(|line| line.starts_with("client ")).unwrap() + 1;
            assert!(lines[first].starts_with("198.51.100.60 ") && lines[first].contains("over"), "{}", lines[first]);
            let bars = lines[first].ends_with(BAR) && lines[first].contains(" 6.0x ");
            assert_eq!(bars, width == 200, "{}", lines[first]);
            // The last line is for the keys, all others below the heading are clients.
            assert!(lines[height as usize - 2].starts_with("198.51.100."), "{lines:#?}");
            assert!(lines[height as usize - 1].contains("q quit"), "{lines:#?}");
            assert!(lines.iter().any(|line| line.contains('\u{2588}')), "no picture of refusals: {lines:#?}");
        }
    }

    #[test]
    fn an_outage_has_a_line_of_its_own() {
        let mut screen = Screen::new(answer(true));
        assert!(drawn(&mut screen, 80, 24)[2].starts_with(" STORE DOWN: inet:mc:11211 for 1 min 15 s "));
        screen.lost("no such file".to_owned());
        assert!(drawn(&mut screen, 80, 24)[2].starts_with(" NO ANSWER: no such file "));
    }

    #[test]
    fn the_selection_follows_its_client_and_sorting_keeps_to_its_column() {
        let mut screen = Screen::new(answer(false));
        screen.select(2);
        assert_eq!(screen.selected().as_deref(), Some("198.51.100.58"));
        screen.sort(Sort::Key);
        assert_eq!(screen.rows[0].key, "198.51.100.1");
        screen.select(1000);
        let last = screen.selected();
        screen.heard(answer(false));
        assert_eq!(screen.selected(), last);
        screen.select(-1000);
        assert_eq!(screen.selected().as_deref(), Some("198.51.100.1"));
    }
}
