//! What `connshaper top` shows. Draws what it is told and asks nobody.

use std::cmp::Reverse;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Sparkline, Table, TableState};

use crate::control::listing::KeyStatus;
use crate::control::origin::OriginStatus;
use crate::control::show::ClientStatus;
use crate::control::text::lasting;
use crate::control::top::{ALL, TopAnswer};

/// By what the clients and keys are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Those that have the most of what they may first.
    Share,
    /// Those with the most hits first.
    Count,
    /// Those whose window ends last first.
    Left,
    /// By address or name.
    Key,
}

/// A client or a key, and how far it has got.
#[derive(Clone, Debug)]
struct ScreenRow {
    limit: String,
    key: String,
    count: u64,
    threshold: u64,
    left: u32,
    over: bool,
    /// Where it is from, in full and without who runs its network.
    origin: [String; 2],
}

impl ScreenRow {
    fn of_client(client: &ClientStatus) -> Self {
        let ClientStatus { count, threshold, left, over, .. } = *client;
        let origin = origin(client.origin.as_ref());
        Self { limit: client.limit(), key: client.key.clone(), count, threshold, left, over, origin }
    }

    fn of_key(key: &KeyStatus) -> Self {
        let KeyStatus { count, threshold, left, .. } = *key;
        let (over, origin) = (count > threshold, origin(key.origin.as_ref()));
        Self { limit: key.limit.clone(), key: key.key.clone(), count, threshold, left, over, origin }
    }

    fn times(&self) -> f64 {
        self.count as f64 / self.threshold.max(1) as f64
    }
}

fn origin(origin: Option<&OriginStatus>) -> [String; 2] {
    let Some(origin) = origin else { return Default::default() };
    [origin.to_string(), OriginStatus { organization: None, ..origin.clone() }.to_string()]
}

/// What bars are made of.
const BAR: &str = "\u{2501}";

/// What the columns that are always there take of a wide screen.
const COLUMNS: usize = 45 + 20 + 9 + 9 + 7 + 11 + 6;

/// What `12.3x ` takes before a bar.
const TIMES: usize = 8;

/// The screen.
#[derive(Debug)]
pub struct Screen {
    answer: TopAnswer,
    /// The limit whose keys are shown, or [`ALL`]; none where clients are.
    limit: Option<String>,
    rows: Vec<ScreenRow>,
    sort: Sort,
    table: TableState,
    /// What the last key did.
    said: Option<String>,
    /// Why the daemon does not answer any more.
    lost: Option<String>,
}

impl Screen {
    /// A screen of what the daemon said first, of a limit if it was asked for one.
    pub fn new(answer: TopAnswer, limit: Option<String>) -> Self {
        let table = TableState::new().with_selected(0);
        let sort = Self::usual_sort(limit.as_ref());
        let mut screen = Self { answer, limit, rows: Vec::new(), sort, table, said: None, lost: None };
        screen.fill();
        screen
    }

    /// The daemon said this. The same client or key stays selected.
    pub fn heard(&mut self, answer: TopAnswer) {
        let selected = self.table.selected().and_then(|place| self.rows.get(place)).cloned();
        self.answer = answer;
        self.lost = None;
        self.fill();
        let is_selected =
            |row: &ScreenRow| selected.as_ref().is_some_and(|old| (&old.key, &old.limit) == (&row.key, &row.limit));
        if let Some(place) = self.rows.iter().position(is_selected) {
            self.table.select(Some(place));
        }
    }

    fn fill(&mut self) {
        let TopAnswer { busiest, keys, .. } = &self.answer;
        self.rows = match keys {
            Some(keys) => keys.iter().map(ScreenRow::of_key).collect(),
            None => busiest.iter().map(ScreenRow::of_client).collect(),
        };
        self.arrange();
    }

    /// The limit whose keys are to be asked for; none for clients.
    pub fn limit(&self) -> Option<String> {
        self.limit.clone()
    }

    /// Goes on to the next limit, or back: clients come first, then all limits, then each.
    pub fn turn(&mut self, steps: isize) {
        let limits = &self.answer.status.limits;
        let all = [ALL.to_owned()].into_iter().filter(|all| !limits.contains(all));
        let views: Vec<_> = [None].into_iter().chain(all.chain(limits.iter().cloned()).map(Some)).collect();
        let place = views.iter().position(|view| *view == self.limit).unwrap_or(0) as isize;
        self.limit = views[(place + steps).rem_euclid(views.len() as isize) as usize].clone();
        self.sort = Self::usual_sort(self.limit.as_ref());
        self.table.select(Some(0));
        self.said = None;
    }

    fn usual_sort(limit: Option<&String>) -> Sort {
        if limit.is_some() { Sort::Share } else { Sort::Count }
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

    /// The selected client or key.
    pub fn selected(&self) -> Option<String> {
        self.rows.get(self.table.selected()?).map(|row| row.key.clone())
    }

    fn arrange(&mut self) {
        match self.sort {
            Sort::Share => self
                .rows
                .sort_by(|one, other| other.times().total_cmp(&one.times()).then_with(|| one.key.cmp(&other.key))),
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
        self.rows(frame, areas[3]);
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

    fn rows(&mut self, frame: &mut Frame, area: Rect) {
        let sorted = |sort, name: &'static str| if self.sort == sort { format!("{name} v") } else { name.to_owned() };
        let is_of_clients = self.answer.keys.is_none();
        // Where all are of one limit its name is in the title, and long keys have its room.
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
        // Where there is room for it, how far each has got: limits may count different things.
        let room = usize::from(area.width).saturating_sub(COLUMNS + TIMES);
        let is_shown = |column: usize| (column != 1 || has_limit) && (column != 6 || room > 0);
        let shown = |cells: [String; 7]| {
            Row::new(cells.into_iter().enumerate().filter_map(move |(at, cell)| is_shown(at).then_some(cell)))
        };
        let most = self.rows.iter().map(ScreenRow::times).fold(0.0, f64::max);
        // As much as there is room for: half of a number would be another one.
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
            // As a whole number it is 100 only where nothing more is allowed.
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
        self.said.clone().unwrap_or_else(|| {
            "tab limits  s share  c count  l left  a key  b ban 1 h  u unban  r reset  q quit".to_owned()
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
            origin: (n == 60).then(|| OriginStatus {
                asn: Some(64500),
                country: Some("ZZ".to_owned()),
                organization: None,
            }),
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
            limits: ["connections", "users"].map(str::to_owned).to_vec(),
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
        TopAnswer { status, busiest: (1..=60).map(client).collect(), keys: None, latency }
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
            let mut screen = Screen::new(answer(false), None);
            let lines = drawn(&mut screen, width, height);
            assert!(
                lines[0].starts_with("connshaper 0.1.0  up 1 h 1 min  store: memcached, median 0.2 ms, 99% 2.5 ms"),
                "{}",
                lines[0]
            );
            assert!(lines[1].starts_with("812.4 requests/s  700.0 refused/s"), "{}", lines[1]);
            assert!(width == 80 || lines[1].contains("  bans: 1 by admins, 3 by limits"), "{}", lines[1]);
            let first = lines.iter().position(|line| line.starts_with("client ")).unwrap() + 1;
            assert!(lines[first].starts_with("198.51.100.60 ") && lines[first].contains(" 600%"), "{}", lines[first]);
            assert_eq!(lines[first].contains("  AS64500, ZZ "), width == 200, "{}", lines[first]);
            assert_eq!(lines[first].contains("AS"), width == 200, "{}", lines[first]);
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
        let mut screen = Screen::new(answer(true), None);
        assert!(drawn(&mut screen, 80, 24)[2].starts_with(" STORE DOWN: inet:mc:11211 for 1 min 15 s "));
        screen.lost("no such file".to_owned());
        assert!(drawn(&mut screen, 80, 24)[2].starts_with(" NO ANSWER: no such file "));
    }

    #[test]
    fn the_selection_follows_its_client_and_sorting_keeps_to_its_column() {
        let mut screen = Screen::new(answer(false), None);
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

    #[test]
    fn each_limit_has_a_view_whose_keys_are_sorted_by_their_share() {
        let key = |limit: &str, key: &str, count, threshold| KeyStatus {
            limit: limit.to_owned(),
            key: key.to_owned(),
            count,
            threshold,
            since: None,
            over_since: None,
            refused: 0,
            left: 60,
            log_only: false,
            origin: None,
        };
        let long = "sasl_username=accounts.receivable@example.com";
        let keys = vec![key("users", "sasl_username=joe@example.com", 500, 1000), key("users", long, 30, 10)];
        let mut screen = Screen::new(answer(false), None);
        let mut views = Vec::new();
        for _ in 0..4 {
            views.push(screen.limit());
            screen.turn(1);
        }
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(views, [None, named("all"), named("connections"), named("users")]);
        assert_eq!(screen.limit(), None);
        screen.turn(-1);
        assert_eq!(screen.limit(), named("users"));
        screen.heard(TopAnswer { keys: Some(keys.clone()), ..answer(false) });
        let lines = drawn(&mut screen, 80, 24);
        let title = lines.iter().position(|line| line.contains(" nearest to limit users, 2 ")).unwrap();
        assert!(lines[title + 1].starts_with("key ") && !lines[title + 1].contains("limit"), "{lines:#?}");
        // What of a long key has no room is its end.
        assert!(lines[title + 2].starts_with("sasl_username=accounts.receivabl"), "{lines:#?}");
        assert!(lines[title + 2].contains("    300%"), "{lines:#?}");
        assert!(lines[title + 3].starts_with("sasl_username=joe@example.com ") && lines[title + 3].contains("  50%"));
        assert_eq!(screen.selected().as_deref(), Some(long));
        // The same key may have several limits.
        screen.turn(2);
        let both = vec![key("messages", long, 9, 10), key("users", long, 30, 10)];
        screen.heard(TopAnswer { keys: Some(both.clone()), ..answer(false) });
        screen.select(1);
        screen.heard(TopAnswer { keys: Some(both), ..answer(false) });
        assert_eq!(screen.table.selected(), Some(1));
        let lines = drawn(&mut screen, 80, 24);
        assert!(lines.iter().any(|line| line.contains(" nearest to their limits, 2 ")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains(" messages ")), "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }
}
