//! Shows the play in a terminal: three plots over one time axis, and the decisions as they fall.

use std::{
    io::{self, IsTerminal, stdout},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Result;
use crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph, Wrap},
};

use super::{
    interrupt::Interrupt,
    lines::Lines,
    scene::{Reading, Scene, Shared},
};
use crate::load::producer::millis_now;

const FRAME: Duration = Duration::from_millis(250);
const ARRIVING: Color = Color::Cyan;
const HANDLED: Color = Color::Green;
const BACKLOG: Color = Color::Yellow;
const WANTED: Color = Color::Magenta;
const READY: Color = Color::Green;

/// Shows the scene until it is ended or dropped: on a screen when a person looks, else in lines.
#[derive(Debug)]
pub struct View {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl View {
    /// Begins to show.
    pub fn start(scene: Shared, interrupt: Interrupt) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let person = stdout().is_terminal() && io::stdin().is_terminal();
        let thread = thread::Builder::new().name("demo-view".into()).spawn(move || {
            if person && screen(&scene, &interrupt, &stopped).is_ok() {
                return;
            }
            let mut lines = Lines::default();
            loop {
                let last = stopped.load(Ordering::Relaxed);
                for line in lines.next(&scene.lock()) {
                    println!("{line}");
                }
                if last {
                    return;
                }
                thread::sleep(FRAME);
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends it; the terminal is as it was before.
    pub fn end(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A view that panicked has restored the terminal by its hook.
            let _ = thread.join();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.finish();
    }
}

fn screen(scene: &Shared, interrupt: &Interrupt, stopped: &AtomicBool) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut show = || -> io::Result<()> {
        while !stopped.load(Ordering::Relaxed) {
            let now = scene.lock().clone();
            terminal.draw(|frame| draw(frame, &now, millis_now()))?;
            if event::poll(FRAME)?
                && let Event::Key(key) = event::read()?
            {
                // The terminal is raw: Ctrl-C comes as a key.
                let interrupted =
                    key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if interrupted || key.code == KeyCode::Char('q') {
                    interrupt.ask();
                }
            }
        }
        Ok(())
    };
    let shown = show();
    ratatui::try_restore()?;
    shown
}

/// Draws one frame; `clock` is now, in milliseconds since the Unix epoch.
fn draw(frame: &mut Frame<'_>, scene: &Scene, clock: i64) {
    let [head, plots, decisions, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(18),
        Constraint::Length(8),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let now = scene.now();
    frame.render_widget(header(scene, now, clock), head);
    let [rates, backlog, pods] =
        Layout::vertical([Constraint::Fill(4), Constraint::Fill(3), Constraint::Fill(4)])
            .areas(plots);
    let series = |value: fn(&Reading) -> f64| -> Vec<(f64, f64)> {
        scene.readings.iter().map(|reading| (scene.seconds(reading.at), value(reading))).collect()
    };
    // The axis begins with what is read now: the first pod's trial is another story.
    let start = scene.readings.first().map_or(0.0, |first| scene.seconds(first.at));
    let time = [start, scene.seconds(now.at).max(start + 60.0)];
    plot(
        frame,
        rates,
        time,
        &title(
            "records a second",
            &[("arriving", ARRIVING, now.arriving), ("handled", HANDLED, now.handled)],
        ),
        &[(ARRIVING, series(|r| r.arriving)), (HANDLED, series(|r| r.handled))],
        500.0,
        false,
    );
    plot(
        frame,
        backlog,
        time,
        &title("records waiting", &[("backlog", BACKLOG, now.backlog as f64)]),
        &[(BACKLOG, series(|r| r.backlog as f64))],
        100.0,
        false,
    );
    plot(
        frame,
        pods,
        time,
        &title(
            "pods",
            &[("asked for", WANTED, f64::from(now.wanted)), ("ready", READY, f64::from(now.ready))],
        ),
        &[(WANTED, series(|r| f64::from(r.wanted))), (READY, series(|r| f64::from(r.ready)))],
        4.0,
        true,
    );
    frame.render_widget(
        decision_list(scene, usize::from(decisions.height.saturating_sub(2))),
        decisions,
    );
    frame.render_widget(Paragraph::new(scene.status.as_str()).dim(), foot);
}

fn header(scene: &Scene, now: Reading, clock: i64) -> Paragraph<'_> {
    let elapsed = scene.seconds(clock).max(0.0) as u64;
    let knobs = format!("   batch {}  concurrency {}", now.batch_size, now.concurrency);
    Paragraph::new(vec![
        Line::from(vec![
            Span::from(" Sluice ").bold().reversed(),
            Span::from(format!(" {}:{:02}  ", elapsed / 60, elapsed % 60)),
            Span::from(scene.phase.title.as_str()).bold(),
            Span::from(knobs),
            Span::from("   Ctrl-C ends").dim(),
        ]),
        Line::from(format!(" {}", scene.phase.text)),
    ])
}

/// The plot's name with what each line is and how it stands: a legend inside the plot would hide the lines.
fn title(name: &str, lines: &[(&str, Color, f64)]) -> Line<'static> {
    let mut spans = vec![Span::from(format!(" {name}: "))];
    for (line, color, now) in lines {
        spans.push(Span::styled(format!("━ {line} {now:.0}  "), Style::new().fg(*color)));
    }
    Line::from(spans)
}

fn plot(
    frame: &mut Frame<'_>,
    area: Rect,
    time: [f64; 2],
    title: &Line<'static>,
    lines: &[(Color, Vec<(f64, f64)>)],
    least: f64,
    times: bool,
) {
    let top =
        lines.iter().flat_map(|(_, points)| points).fold(least, |top, point| top.max(point.1));
    let top = round(top);
    let datasets = lines
        .iter()
        .map(|(color, points)| {
            Dataset::default()
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(*color))
                .data(points)
        })
        .collect();
    // One row of times is enough for three plots, and rows are scarce.
    let times: Vec<String> = if times {
        (0..=4)
            .map(|n| format!("{:.0} s", time[0] + (time[1] - time[0]) * f64::from(n) / 4.0))
            .collect()
    } else {
        Vec::new()
    };
    let chart = Chart::new(datasets)
        .block(Block::bordered().title(title.clone()).border_style(Style::new().dim()))
        .legend_position(None)
        .x_axis(Axis::default().bounds(time).labels(times).style(Style::new().dim()))
        .y_axis(
            Axis::default()
                .bounds([0.0, top])
                .labels([short(0.0), short(top / 2.0), short(top)])
                .style(Style::new().dim()),
        );
    frame.render_widget(chart, area);
}

/// Up to a number that reads well: half steps of its power of ten.
fn round(top: f64) -> f64 {
    let step = 10_f64.powf(top.log10().floor()) / 2.0;
    (top / step).ceil() * step
}

/// All labels are equally wide, so that the plots lie one above the other.
fn short(value: f64) -> String {
    let text =
        if value >= 10_000.0 { format!("{:.0}k", value / 1e3) } else { format!("{value:.0}") };
    format!("{text:>5}")
}

fn decision_list(scene: &Scene, height: usize) -> Paragraph<'_> {
    let newest: Vec<Line<'_>> = scene
        .decisions
        .iter()
        .rev()
        .take(height)
        .map(|decision| {
            Line::from(vec![
                Span::from(format!("{:>5.0} s  ", scene.seconds(decision.at))).dim(),
                Span::from(format!("{:>2} pods  ", decision.replicas)),
                Span::from(format!("{:<16} ", decision.reason)).bold(),
                Span::from(decision.message.as_str()),
            ])
        })
        .collect();
    Paragraph::new(newest)
        .wrap(Wrap { trim: false })
        .block(Block::bordered().title(" decisions ").border_style(Style::new().dim()))
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::{
        demo::scene::Phase,
        record::{ClusterState, DecisionSeen, ReplicasSeen},
    };

    #[test]
    fn the_screen_shows_rates_backlog_pods_and_decisions() {
        let mut scene = Scene::default();
        scene.enter(Phase {
            title: "Act one".into(),
            text: "3,600 records a second".into(),
            since: 0,
        });
        let decision = DecisionSeen {
            reason: "ScaleUp".into(),
            message: "1 to 12".into(),
            replicas: 12,
            ..DecisionSeen::default()
        };
        let cluster = ClusterState {
            replicas: vec![ReplicasSeen { at: 0, wanted: 12, ready: 7 }],
            decisions: vec![decision],
            ..ClusterState::default()
        };
        for n in 0..100_u64 {
            scene.read(n as i64 * 500, n * 1_800, n * 1_700, &cluster);
        }
        for (width, height) in [(100, 40), (80, 24), (20, 5)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &scene, 49_500)).unwrap();
            let shown = terminal.backend().to_string();
            if std::env::var_os("SLUICE_SCREEN").is_some() {
                println!("{shown}");
            }
            if width == 100 {
                for part in [
                    "Act one",
                    "arriving 3600",
                    "handled 3400",
                    "backlog 9900",
                    "asked for 12",
                    "ready 7",
                    "ScaleUp",
                    "1 to 12",
                ] {
                    assert!(shown.contains(part), "{part} is not on the screen:\n{shown}");
                }
            }
        }
    }
}
