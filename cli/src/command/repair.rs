//! `repair`: makes damaged packs again, from a disk that still has the content or from a copy.

use imgx_engine::base::Result;
use imgx_engine::job::{Repair, RepairReport, Unrepaired};
use serde_json::{Value, json};

use crate::args::RepairArguments;
use crate::output::{Console, count, size};
use crate::progress::Reporter;
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// Those of the engine's repair; damage that stays is none.
pub fn run(arguments: &RepairArguments, session: &Session) -> Result<Outcome> {
    let repository = session.repository()?;
    let reporter = Reporter::new(&session.console, session.stop_on_signals()?);
    let plan = Repair::plan(&repository, &arguments.from, arguments.threads, &reporter)?;
    let report = plan.run(&reporter)?;
    drop(reporter);
    print(&report, &session.console);
    Ok(if report.left.is_empty() { Outcome::Done } else { Outcome::Damaged })
}

fn print(report: &RepairReport, console: &Console) {
    let RepairReport { packs, read, repaired, left } = report;
    let listed: Vec<Value> = left
        .iter()
        .map(|left| json!({"object": left.object, "offset": left.offset, "why": left.why}))
        .collect();
    console.json(&json!({
        "event": "result",
        "command": "repair",
        "packs": packs,
        "read": read,
        "repaired": repaired,
        "left": listed,
    }));
    for Unrepaired { object, offset, why } in left {
        let place = offset.map(|offset| format!(", frame at {offset}")).unwrap_or_default();
        console.complain(&format!("not repaired: {object}{place}: {why}"));
    }
    console.say(&format!("checked {}, {} read", count(*packs as u64, "pack"), size(*read)));
    match (repaired, left.len() as u64) {
        (0, 0) => console.say("no damage"),
        (repaired, 0) => console.say(&format!("repaired {}", count(*repaired, "damage"))),
        (repaired, left) => console.say(&format!(
            "repaired {}; {left} left: the next capture of a disk that has the content stores it anew",
            count(*repaired, "damage")
        )),
    }
}
