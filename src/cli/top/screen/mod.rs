//! The screen of `connshaper top`: its rows, their order and the selection.

mod draw;

use std::cmp::Reverse;

use ratatui::widgets::TableState;

use crate::control::listing::KeyStatus;
use crate::control::origin::OriginStatus;
use crate::control::show::ClientStatus;
use crate::control::top::{ALL, TopAnswer};

/// The order of the clients and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The largest share of its limit first.
    Share,
    /// The most hits first.
    Count,
    /// The longest time left first.
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
    /// Its origin, in full and without the organization.
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

/// The screen.
#[derive(Debug)]
pub struct Screen {
    answer: TopAnswer,
    /// The limit whose keys are shown, or [`ALL`]; none where clients are.
    limit: Option<String>,
    rows: Vec<ScreenRow>,
    sort: Sort,
    table: TableState,
    /// The result of the last key.
    message: Option<String>,
    /// Why the daemon does not answer any more.
    error: Option<String>,
}

impl Screen {
    /// The screen of the daemon's first answer: its clients, or the keys of a limit.
    pub fn new(answer: TopAnswer, limit: Option<String>) -> Self {
        let table = TableState::new().with_selected(0);
        let sort = Self::usual_sort(limit.as_ref());
        let mut screen = Self { answer, limit, rows: Vec::new(), sort, table, message: None, error: None };
        screen.fill();
        screen
    }

    /// Shows a further answer of the daemon. The same client or key stays selected.
    pub fn update(&mut self, answer: TopAnswer) {
        let selected = self.table.selected().and_then(|place| self.rows.get(place)).cloned();
        self.answer = answer;
        self.error = None;
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
    pub fn change_view(&mut self, steps: isize) {
        let limits = &self.answer.status.limits;
        let all = [ALL.to_owned()].into_iter().filter(|all| !limits.contains(all));
        let views: Vec<_> = [None].into_iter().chain(all.chain(limits.iter().cloned()).map(Some)).collect();
        let place = views.iter().position(|view| *view == self.limit).unwrap_or(0) as isize;
        self.limit = views[(place + steps).rem_euclid(views.len() as isize) as usize].clone();
        self.sort = Self::usual_sort(self.limit.as_ref());
        self.table.select(Some(0));
        self.message = None;
    }

    fn usual_sort(limit: Option<&String>) -> Sort {
        if limit.is_some() { Sort::Share } else { Sort::Count }
    }

    /// Shows that the daemon does not answer.
    pub fn set_error(&mut self, error: String) {
        self.error = Some(error);
    }

    /// Shows the result of a key.
    pub fn show_message(&mut self, message: String) {
        self.message = Some(message);
    }

    /// Sorts in another order.
    pub fn sort(&mut self, sort: Sort) {
        self.sort = sort;
        self.arrange();
    }

    /// Moves the selection.
    pub fn select(&mut self, steps: isize) {
        let last = self.rows.len().saturating_sub(1);
        let place = self.table.selected().unwrap_or(0).saturating_add_signed(steps).min(last);
        self.table.select(Some(place));
        self.message = None;
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
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::draw::BAR;
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
        screen.set_error("no such file".to_owned());
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
        screen.update(answer(false));
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
            screen.change_view(1);
        }
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(views, [None, named("all"), named("connections"), named("users")]);
        assert_eq!(screen.limit(), None);
        screen.change_view(-1);
        assert_eq!(screen.limit(), named("users"));
        screen.update(TopAnswer { keys: Some(keys.clone()), ..answer(false) });
        let lines = drawn(&mut screen, 80, 24);
        let title = lines.iter().position(|line| line.contains(" nearest to limit users, 2 ")).unwrap();
        assert!(lines[title + 1].starts_with("key ") && !lines[title + 1].contains("limit"), "{lines:#?}");
        // A long key loses its end.
        assert!(lines[title + 2].starts_with("sasl_username=accounts.receivabl"), "{lines:#?}");
        assert!(lines[title + 2].contains("    300%"), "{lines:#?}");
        assert!(lines[title + 3].starts_with("sasl_username=joe@example.com ") && lines[title + 3].contains("  50%"));
        assert_eq!(screen.selected().as_deref(), Some(long));
        // The same key may have several limits.
        screen.change_view(2);
        let both = vec![key("messages", long, 9, 10), key("users", long, 30, 10)];
        screen.update(TopAnswer { keys: Some(both.clone()), ..answer(false) });
        screen.select(1);
        screen.update(TopAnswer { keys: Some(both), ..answer(false) });
        assert_eq!(screen.table.selected(), Some(1));
        let lines = drawn(&mut screen, 80, 24);
        assert!(lines.iter().any(|line| line.contains(" nearest to their limits, 2 ")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains(" messages ")), "{lines:#?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80));
    }
}
