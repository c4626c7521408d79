//! Draws what was measured: three panels over one time axis, as SVG.

use anyhow::{Context, Result};
use plotters::{
    backend::SVGBackend,
    chart::{ChartBuilder, ChartContext},
    coord::types::RangedCoordf64,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{DashedPathElement, PathElement, Rectangle, Text},
    prelude::{
        Cartesian2d, Color, IntoFont, RGBColor, SeriesLabelPosition, ShapeStyle, TextStyle, WHITE,
    },
    series::LineSeries,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{record::ReplicasSeen, verify::Second};

const SIZE: (u32, u32) = (1_100, 900);
/// Room above the highest point: for the legend, and for the words at the marks.
const HEADROOM: f64 = 1.35;
const FONT: &str = "sans-serif";
const ARRIVING: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const HANDLED: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const BEHIND: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const WANTED: RGBColor = RGBColor(0x94, 0x67, 0xbd);
const CONCURRENCY: RGBColor = RGBColor(0xff, 0x7f, 0x0e);
const FAINT: RGBColor = RGBColor(0x99, 0x99, 0x99);

/// What is drawn. Moments are milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// What stands above it.
    pub title: String,
    /// The left end of the time axis.
    pub from: i64,
    /// Its right end.
    pub to: i64,
    /// Moments that are marked, with a few words.
    pub marks: Vec<(i64, String)>,
    /// Rates and seconds behind.
    pub seconds: Vec<Second>,
    /// Changes of replicas.
    pub replicas: Vec<ReplicasSeen>,
    /// The concurrency asked for, from each moment on.
    pub concurrency: Vec<(i64, i32)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Where a panel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    First,
    Middle,
    Last,
}

impl Picture {
    /// The picture as SVG.
    ///
    /// # Errors
    /// When there is nothing to draw, or the drawing library fails.
    pub fn svg(&self) -> Result<String> {
        anyhow::ensure!(self.to > self.from, "a picture needs a time to show");
        let mut svg = String::new();
        self.draw(&SVGBackend::with_string(&mut svg, SIZE).into_drawing_area())
            .context("the picture could not be drawn")?;
        Ok(svg)
    }

    fn draw(&self, root: &Area<'_>) -> Result<()> {
        root.fill(&WHITE)?;
        let root = root.titled(&self.title, (FONT, 22).into_font())?;
        let panels = root.split_evenly((3, 1));
        let x = |at: i64| (at - self.from) as f64 / 1e3;

        // The last second of a run is cut off: it is never a whole one.
        let whole = self
            .seconds
            .iter()
            .filter(|second| second.at >= self.from && second.at + 1_000 <= self.to);
        let arriving: Vec<_> =
            whole.clone().map(|second| (x(second.at + 500), second.produced as f64)).collect();
        let handled = mean_of_three(
            &whole
                .clone()
                .map(|second| (x(second.at + 500), second.handled as f64))
                .collect::<Vec<_>>(),
        );
        let behind: Vec<_> = whole.map(|second| (x(second.at + 500), second.behind)).collect();

        let mut rates = self.panel(
            &panels[0],
            "records a second",
            top(&[&arriving, &handled], 400.0),
            Place::First,
        )?;
        line(&mut rates, &handled, HANDLED, "handled (mean of 3 s)")?;
        line(&mut rates, &arriving, ARRIVING, "arriving")?;
        legend(&mut rates)?;

        let mut late =
            self.panel(&panels[1], "seconds behind", top(&[&behind], 2.5), Place::Middle)?;
        line(&mut late, &behind, BEHIND, "age of the oldest record not handled")?;
        let limit = vec![(0.0, 2.0), (x(self.to), 2.0)];
        late.draw_series([DashedPathElement::new(limit, 4, 4, FAINT.stroke_width(1))])?
            .label("2 s")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 22, y)], FAINT));
        legend(&mut late)?;

        let stairs = |value: &dyn Fn(&ReplicasSeen) -> i32| {
            self.stairs(
                &self.replicas.iter().map(|seen| (seen.at, value(seen))).collect::<Vec<_>>(),
            )
        };
        let (wanted, ready) = (stairs(&|seen| seen.wanted), stairs(&|seen| seen.ready));
        let concurrency = self.stairs(&self.concurrency);
        let mut pods = self.panel(
            &panels[2],
            "pods",
            top(&[&wanted, &ready, &concurrency], 4.0),
            Place::Last,
        )?;
        if self.concurrency.iter().any(|&(_, value)| value > 1) {
            line(&mut pods, &concurrency, CONCURRENCY, "concurrency in each pod")?;
        }
        line(&mut pods, &wanted, WANTED, "pods asked for")?;
        line(&mut pods, &ready, HANDLED, "pods ready")?;
        legend(&mut pods)?;
        root.present()?;
        Ok(())
    }

    fn panel<'a, 'b>(
        &self,
        area: &'a Area<'b>,
        name: &str,
        top: f64,
        place: Place,
    ) -> Result<Panel<'a, 'b>> {
        let end = (self.to - self.from) as f64 / 1e3;
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(if place == Place::Last { 44 } else { 26 })
            .y_label_area_size(70)
            .build_cartesian_2d(0.0..end, 0.0..top * HEADROOM)?;
        let value =
            |value: &f64| if top < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        let mut mesh = chart.configure_mesh();
        mesh.y_desc(name)
            .axis_desc_style((FONT, 16))
            .label_style((FONT, 14))
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(FAINT.mix(0.3))
            .x_labels(12)
            .y_labels(6)
            .x_label_formatter(&|seconds| format!("{seconds:.0}"))
            .y_label_formatter(&value);
        if place == Place::Last {
            mesh.x_desc("seconds");
        }
        mesh.draw()?;
        let words = TextStyle::from((FONT, 13).into_font())
            .color(&RGBColor(0x44, 0x44, 0x44))
            .pos(Pos::new(HPos::Left, VPos::Top));
        for (at, text) in &self.marks {
            let at = (at - self.from) as f64 / 1e3;
            chart.draw_series([PathElement::new(
                [(at, 0.0), (at, top * HEADROOM)],
                FAINT.stroke_width(1),
            )])?;
            // The words once: the lines run through all panels at the same place.
            if place == Place::First {
                chart.draw_series([Text::new(
                    format!(" {text}"),
                    (at, top * HEADROOM),
                    words.clone(),
                )])?;
            }
        }
        Ok(chart)
    }

    /// A value that holds until the next one, as a line.
    fn stairs(&self, changes: &[(i64, i32)]) -> Vec<(f64, f64)> {
        let mut points: Vec<(f64, f64)> = Vec::new();
        for &(at, value) in changes {
            let x = (at.clamp(self.from, self.to) - self.from) as f64 / 1e3;
            if let Some(&(_, before)) = points.last() {
                points.push((x, before));
            }
            points.push((x, f64::from(value)));
        }
        if let Some(&(_, last)) = points.last() {
            points.push(((self.to - self.from) as f64 / 1e3, last));
        }
        points
    }
}

fn line<'a, 'b: 'a>(
    chart: &mut Panel<'a, 'b>,
    points: &[(f64, f64)],
    color: RGBColor,
    name: &str,
) -> Result<()> {
    let style: ShapeStyle = color.stroke_width(2);
    chart
        .draw_series(LineSeries::new(points.iter().copied(), style))?
        .label(name)
        .legend(move |(x, y)| Rectangle::new([(x, y - 2), (x + 22, y + 1)], color.filled()));
    Ok(())
}

fn legend<'a, 'b: 'a>(chart: &mut Panel<'a, 'b>) -> Result<()> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::Coordinate(700, 18))
        .background_style(WHITE.mix(0.85))
        .border_style(FAINT)
        .label_font((FONT, 14))
        .draw()?;
    Ok(())
}

fn top(lines: &[&[(f64, f64)]], least: f64) -> f64 {
    lines.iter().flat_map(|points| points.iter()).fold(least, |top, point| top.max(point.1))
}

fn mean_of_three(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    (0..points.len())
        .map(|n| {
            let near = &points[n.saturating_sub(1)..(n + 2).min(points.len())];
            (points[n].0, near.iter().map(|point| point.1).sum::<f64>() / near.len() as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn picture() -> Picture {
        let seconds = (0..200_u64)
            .map(|n| {
                let spike = (20..95).contains(&n);
                let produced = if spike { 3_600 } else { 300 };
                let handled = if (20..30).contains(&n) {
                    500
                } else if (30..60).contains(&n) {
                    4_600
                } else {
                    produced
                };
                let behind =
                    if (20..60).contains(&n) { 8.0 - (n as f64 - 30.0).abs() / 4.0 } else { 0.6 };
                Second { at: n as i64 * 1_000, produced, handled, behind }
            })
            .collect();
        let seen = |at, wanted, ready| ReplicasSeen { at, wanted, ready };
        Picture {
            title: "cargo demo: 300 → 3,600 → 300 records a second".into(),
            from: 0,
            to: 200_000,
            marks: vec![
                (20_000, "3,600/s".into()),
                (95_000, "300/s".into()),
                (150_000, "knobs free, 1,800/s".into()),
            ],
            seconds,
            replicas: vec![
                seen(0, 1, 1),
                seen(22_000, 12, 1),
                seen(27_000, 12, 12),
                seen(127_000, 1, 12),
                seen(130_000, 1, 1),
            ],
            concurrency: vec![(0, 1), (155_000, 4), (165_000, 8)],
        }
    }

    #[test]
    fn a_picture_names_its_axes_lines_and_marks() {
        let svg = picture().svg().unwrap();
        for text in [
            "records a second",
            "seconds behind",
            "pods ready",
            "pods asked for",
            "seconds",
            "3,600/s",
            "arriving",
            "concurrency",
        ] {
            assert!(svg.contains(text), "{text} is not in the picture");
        }
        // For a person to look at: SLUICE_PICTURE=FILE cargo test.
        if let Some(path) = std::env::var_os("SLUICE_PICTURE") {
            std::fs::write(path, svg).unwrap();
        }
        assert!(Picture::default().svg().is_err());
    }
}
