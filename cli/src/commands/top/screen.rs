//! The screen of `volley top`: what is chosen by keys, and how it is drawn.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};
use volley_common::Result;
use volley_common::escape::escape_invisible;

use super::rows::{TopRow, TopView, details, rows, sort};
use super::snapshot::TopSnapshot;
use crate::commands::cluster;
use crate::output::{cell, size};

/// Rows that PageUp and PageDown pass over.
const PAGE: usize = 10;
const HELP: &str = "Tab nodes or tables  s sort  r reverse  Enter details  Esc back  q quit";

/// What a key does beyond the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopKey {
    /// Nothing: the screen is drawn again.
    Stay,
    /// It ends.
    Quit,
}

/// How a view is sorted, and which of its rows is selected.
#[derive(Default)]
struct ViewState {
    column: usize,
    is_reversed: bool,
    /// The key of the row; none: the first one.
    selected: Option<String>,
    table: TableState,
}

/// The screen.
pub struct TopScreen {
    address: String,
    has_colours: bool,
    now: TopSnapshot,
    former: Option<TopSnapshot>,
    /// Why the last look at the cluster failed.
    error: Option<String>,
    view: TopView,
    /// Whether the details of the selected row are shown.
    is_detailed: bool,
    nodes: ViewState,
    tables: ViewState,
}

impl TopScreen {
    /// `address`: the member that answers.
    pub fn new(address: String, first: TopSnapshot, has_colours: bool) -> Self {
        TopScreen {
            address,
            has_colours,
            now: first,
            former: None,
            error: None,
            view: TopView::Nodes,
            is_detailed: false,
            nodes: ViewState::default(),
            tables: ViewState::default(),
        }
    }

    /// Shows a later look at the cluster, or why there is none, beside the last one.
    pub fn show(&mut self, read: Result<TopSnapshot>) {
        match read {
            Ok(read) => {
                self.former = Some(std::mem::replace(&mut self.now, read));
                self.error = None;
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> TopKey {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return TopKey::Quit,
            KeyCode::Char('q') => return TopKey::Quit,
            KeyCode::Esc if !self.is_detailed => return TopKey::Quit,
            KeyCode::Esc | KeyCode::Backspace => self.is_detailed = false,
            KeyCode::Enter => self.is_detailed = !self.is_detailed,
            KeyCode::Tab | KeyCode::Left | KeyCode::Right => {
                (self.view, self.is_detailed) = (self.view.other(), false);
            }
            KeyCode::Char('s') => {
                let columns = self.view.columns().len();
                let state = self.state();
                (state.column, state.is_reversed) = ((state.column + 1) % columns, false);
            }
            KeyCode::Char('r') => {
                let state = self.state();
                state.is_reversed = !state.is_reversed;
            }
            KeyCode::Up | KeyCode::Char('k') => self.select(|at, _| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at, _| at + 1),
            KeyCode::PageUp => self.select(|at, _| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.select(|at, _| at + PAGE),
            KeyCode::Home => self.select(|_, _| 0),
            KeyCode::End => self.select(|_, last| last),
            _ => {}
        }
        TopKey::Stay
    }

    fn state(&mut self) -> &mut ViewState {
        match self.view {
            TopView::Nodes => &mut self.nodes,
            TopView::Tables => &mut self.tables,
        }
    }

    /// The rows of the view in their order, and which one is selected.
    fn sorted(&mut self) -> (Vec<TopRow>, usize) {
        let mut found = rows(self.view, &self.now, self.former.as_ref());
        let state = self.state();
        sort(&mut found, state.column, state.is_reversed);
        let at = state.selected.as_ref().and_then(|key| found.iter().position(|row| row.key == *key));
        (found, at.unwrap_or(0))
    }

    /// Selects another row: `to` gets the number of the selected row and that of the last one.
    fn select(&mut self, to: impl Fn(usize, usize) -> usize) {
        let (found, at) = self.sorted();
        let last = found.len().saturating_sub(1);
        let key = found.get(to(at, last).min(last)).map(|row| row.key.clone());
        self.state().selected = key;
    }

    /// Draws it. The first lines need 80 columns, and are cut off in fewer.
    pub fn draw(&mut self, frame: &mut Frame) {
        let areas = Layout::vertical([Constraint::Length(4), Constraint::Min(0), Constraint::Length(1)]);
        let [head, body, foot] = areas.areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        let (found, at) = self.sorted();
        match found.get(at).filter(|_| self.is_detailed) {
            Some(row) => {
                let lines: Vec<Line> = details(&row.facts).into_iter().map(Line::from).collect();
                frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), body);
            }
            None => self.draw_table(frame, body, &found, at),
        }
        frame.render_widget(Paragraph::new(HELP).style(Style::new().add_modifier(Modifier::DIM)), foot);
    }

    fn draw_table(&mut self, frame: &mut Frame, area: Rect, found: &[TopRow], at: usize) {
        let (view, has_colours) = (self.view, self.has_colours);
        let state = self.state();
        let headings = view.columns().iter().enumerate().map(|(index, column)| {
            let sign = match (index == state.column, state.is_reversed) {
                (false, _) => "",
                (true, false) => "*",
                (true, true) => "^",
            };
            cell_of(format!("{}{sign}", column.heading), index)
        });
        let header = Row::new(headings).style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED));
        let shown = found.iter().map(|row| {
            let is_marked = view == TopView::Nodes && row.cells.get(1).is_some_and(|cell| cell.text != "ok");
            let style = if is_marked && has_colours { Style::new().fg(Color::Yellow) } else { Style::new() };
            let cells = row.cells.iter().enumerate();
            Row::new(cells.map(|(index, cell)| cell_of(cell.text.clone(), index))).style(style)
        });
        let widths = view.columns().iter().map(|column| match column.width {
            0 => Constraint::Fill(1),
            width => Constraint::Length(width),
        });
        let table = Table::new(shown, widths).header(header).column_spacing(1);
        let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        state.table.select((!found.is_empty()).then_some(at));
        frame.render_stateful_widget(table, area, &mut state.table);
    }

    /// The lines above the table.
    fn head(&self) -> Vec<Line<'static>> {
        let status = &self.now.status;
        let health = cell("health", &status["health"]);
        let colour = match health.as_str() {
            "green" => Color::Green,
            "yellow" => Color::Yellow,
            _ => Color::Red,
        };
        let style = if self.has_colours { Style::new().fg(colour) } else { Style::new() };
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let stats = &status["stats"];
        let nodes = format!("{} of {} nodes alive", cell("", &stats["nodes_alive"]), cell("", &stats["nodes"]));
        let view = match (self.view, &self.now.tables) {
            (TopView::Nodes, _) => "Nodes".to_string(),
            (TopView::Tables, Ok(_)) => "Tables".to_string(),
            (TopView::Tables, Err(why)) => format!("Tables: {why}"),
        };
        vec![
            Line::styled(
                escape_invisible(&format!("{health}: {}", cluster::summary(status))).into_owned(),
                style.patch(bold),
            ),
            Line::from(
                escape_invisible(&format!("{nodes}; {}; by {}", cluster::totals(stats), self.address)).into_owned(),
            ),
            Line::from(escape_invisible(&self.activity()).into_owned()),
            Line::styled(escape_invisible(&view).into_owned(), bold),
        ]
    }

    /// What all nodes do together, or what is wrong.
    fn activity(&self) -> String {
        if let Some(error) = &self.error {
            return format!("not up to date: {error}");
        }
        let known = rows(TopView::Nodes, &self.now, self.former.as_ref());
        let sum = |column: usize| known.iter().filter_map(|row| row.cells.get(column)?.number).sum::<f64>();
        let all = format!(
            "{}/s in {} gets, {}/s in {} puts, {} queries",
            size(sum(4) as i64),
            sum(6),
            size(sum(5) as i64),
            sum(7),
            sum(8)
        );
        match &self.now.remark {
            None => all,
            Some(why) if self.now.activity.is_empty() => format!("streams are not known: {why}"),
            Some(why) => format!("{all}; not of all nodes: {why}"),
        }
    }
}

/// The first column is a text; the others are aligned to the right, as numbers are.
fn cell_of(text: String, index: usize) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if index == 0 { line } else { line.right_aligned() })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;
    use volley_common::Error;

    use super::super::snapshot::tests::snapshot;
    use super::*;

    /// The screen's lines.
    fn drawn(screen: &mut TopScreen, width: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 12)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let cells = terminal.backend().buffer().content();
        let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
        cells.chunks(width.into()).map(|cells| line(cells).trim_end().to_string()).collect()
    }

    fn screen() -> TopScreen {
        let begin = Instant::now();
        let mut screen = TopScreen::new("10.0.0.9:8815".into(), snapshot(begin, 0), true);
        screen.show(Ok(snapshot(begin, 2)));
        screen
    }

    fn press(screen: &mut TopScreen, codes: &[KeyCode]) {
        for code in codes {
            assert_eq!(screen.press(KeyEvent::from(*code)), TopKey::Stay, "{code:?}");
        }
    }

    #[test]
    fn nodes_and_tables_fit_into_80_columns() {
        let mut screen = screen();
        let lines = drawn(&mut screen, 80);
        assert_eq!(lines[0], "green: 12 parts, all fully replicated");
        assert!(
            lines[1].starts_with("2 of 2 nodes alive; 2 tables, 3,000 rows, 24.00 kB, 1 write in progress; by "),
            "{lines:?}"
        );
        assert!(
            lines[2].starts_with("1.00 MB/s in 3 gets, 0 B/s in 1 puts, 2 queries; not of all nodes: http://"),
            "{lines:?}"
        );
        assert!(lines[3] == "Nodes" && lines[4].starts_with("node*") && lines[4].ends_with(" sql"), "{lines:?}");
        assert!(
            lines[5].starts_with("10.0.0.1:8816") && lines[5].contains("1.00 MB") && lines[5].ends_with(" 2"),
            "{lines:?}"
        );
        assert!(
            lines[6].starts_with("10.0.0.2:8816") && lines[6].ends_with(" -") && lines[11].ends_with("q quit"),
            "{lines:?}"
        );
        press(&mut screen, &[KeyCode::Tab]);
        let lines = drawn(&mut screen, 80);
        assert!(
            lines[3] == "Tables" && lines[5].starts_with("sales/orders") && lines[6].starts_with("trips"),
            "{lines:?}"
        );
        assert!(drawn(&mut screen, 20).len() == 12, "narrow terminals are no error");
    }

    #[test]
    fn keys_sort_select_and_show_details() {
        let mut screen = screen();
        press(&mut screen, &[KeyCode::Tab, KeyCode::Char('r')]);
        let lines = drawn(&mut screen, 80);
        assert!(lines[4].starts_with("table^") && lines[5].starts_with("trips"), "{lines:?}");
        press(&mut screen, &[KeyCode::Down, KeyCode::Down, KeyCode::Enter]);
        let lines = drawn(&mut screen, 80);
        assert!(lines.iter().any(|line| line.starts_with("table ") && line.ends_with(" sales/orders")), "{lines:?}");
        // The selection stays at its row.
        press(&mut screen, &[KeyCode::Char('s'), KeyCode::Char('s')]);
        assert!(drawn(&mut screen, 80).iter().any(|line| line.ends_with(" sales/orders")));
        press(&mut screen, &[KeyCode::Esc, KeyCode::End, KeyCode::PageUp, KeyCode::Home, KeyCode::Char('x')]);
        assert!(drawn(&mut screen, 80)[4].contains("rows*"));
        assert_eq!(screen.press(KeyEvent::from(KeyCode::Char('q'))), TopKey::Quit);
        assert_eq!(screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), TopKey::Quit);
        assert_eq!(screen.press(KeyEvent::from(KeyCode::Esc)), TopKey::Quit);
    }

    #[test]
    fn failed_look_leaves_the_last_one_and_names_are_escaped() {
        let mut screen = screen();
        screen.show(Err(Error::unavailable("no member answers")));
        let lines = drawn(&mut screen, 80);
        assert_eq!(lines[2], "not up to date: no member answers");
        assert!(lines[5].starts_with("10.0.0.1:8816"));
        let mut hostile = snapshot(Instant::now(), 0);
        hostile.tables = Ok(vec![json!({ "table": "\u{1b}[2J\u{202e}x", "rows": 1 })]);
        screen.show(Ok(hostile));
        press(&mut screen, &[KeyCode::Tab]);
        assert!(drawn(&mut screen, 80)[5].starts_with(r"\u{1b}[2J\u{202e}x"));
        let mut refused = snapshot(Instant::now(), 0);
        refused.tables = Err("too many tables".into());
        screen.show(Ok(refused));
        assert_eq!(drawn(&mut screen, 80)[3], "Tables: too many tables");
        press(&mut screen, &[KeyCode::Enter, KeyCode::Down]);
        assert_eq!(drawn(&mut screen, 80).len(), 12, "there is no row");
    }
}
